/*
 * A blank process: a program of a few bytes that waits, with all signals blocked, and nothing of ours in it but one
 * descriptor. What a fork would take along (our memory, our handlers) execve(2) leaves behind, and the cost does not grow
 * with our size.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compat.h"
#include "predump.h"
#include "stops.h"

#define STACK_BYTES (64 << 10)
#define N_SIGNALS 64
#define PROGRAM_ADDR 0x400000UL

/* `mov $34, %eax; syscall; jmp -9`: pause(2), for ever */
static const uint8_t CODE[] = {0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7};
#define SYSCALL_OFFSET 5

struct program {
	Elf64_Ehdr header;
	Elf64_Phdr segment, stack;
	uint8_t code[sizeof(CODE)];
};

static int write_program(int fd)
{
	struct program program = {
		.header = {
			.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = PROGRAM_ADDR + offsetof(struct program, code),
			.e_phoff = offsetof(struct program, segment),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		},
		.segment = {
			.p_type = PT_LOAD,
			.p_flags = PF_R | PF_X,
			.p_vaddr = PROGRAM_ADDR,
			.p_filesz = sizeof(program),
			.p_memsz = sizeof(program),
			.p_align = PD_PAGE_BYTES,
		},
		.stack = {.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W},
	};

	memcpy(program.code, CODE, sizeof(CODE));
	return write(fd, &program, sizeof(program)) == sizeof(program) ? 0 : -errno;
}

struct birth {
	const struct pd_spawn *spawn;
	int program_fd, our_pidfd, error;
};

/* Whether we have ended: the one who was just born would then wait for ever. */
static int is_orphan(const struct birth *birth)
{
	struct pollfd ended = {.fd = birth->our_pidfd, .events = POLLIN};

	return poll(&ended, 1, 0) != 0;
}

/* The descriptor that it keeps gets its number, which may be that of it, or of the program; that is then another one. */
static int keep(const struct pd_spawn *spawn, int *program_fd)
{
	if (*program_fd == spawn->keep_as) {
		*program_fd = fcntl(*program_fd, F_DUPFD_CLOEXEC, spawn->keep_as + 1);
		if (*program_fd < 0)
			return -1;
	}
	if (spawn->keep_fd == spawn->keep_as)
		return fcntl(spawn->keep_fd, F_SETFD, 0);
	return dup3(spawn->keep_fd, spawn->keep_as, 0);
}

/* A time namespace, which it enters by the execve(2) that follows: since Linux 6.3, fs/exec.c. */
static int unshare_time(const char *offsets)
{
	ssize_t n_bytes = (ssize_t)strlen(offsets);
	int fd;

	if (unshare(CLONE_NEWTIME) < 0)
		return -1;
	fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	return write(fd, offsets, (size_t)n_bytes) == n_bytes ? 0 : -1; /* the descriptor goes with execve(2) */
}

/* In the new process, on a stack of its own in our memory, while we stand still (CLONE_VFORK). */
static void be_born(struct birth *birth)
{
	static char *const arguments[] = {"predump-restore", NULL}, *const environment[] = {NULL};
	const struct pd_spawn *spawn = birth->spawn;
	const uint64_t by_default[4] = {0}; /* struct sigaction of the kernel */
	int program_fd = birth->program_fd;

	for (int number = 1; number <= N_SIGNALS; number++) /* what we ignore would stay ignored */
		syscall(SYS_rt_sigaction, number, by_default, NULL, sizeof(uint64_t));
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || is_orphan(birth) ||
	    (spawn->time_offsets && unshare_time(spawn->time_offsets) < 0) || keep(spawn, &program_fd) < 0 ||
	    (spawn->personality && personality((unsigned long)spawn->personality) < 0) ||
	    syscall(SYS_execveat, program_fd, "", arguments, environment, AT_EMPTY_PATH))
		birth->error = -errno;
	_exit(127);
}

static long clone_and_call(struct clone_args *args, struct birth *birth)
{
	register long result __asm__("rax") = SYS_clone3;
	register void *first __asm__("rdi") = args;
	register size_t second __asm__("rsi") = sizeof(*args);
	register struct birth *argument __asm__("r12") = birth;
	register void (*child)(struct birth *) __asm__("r13") = be_born;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call *%%r13\n\t"
			 "hlt\n"
			 "1:"
			 : "+r"(result)
			 : "r"(first), "r"(second), "r"(argument), "r"(child)
			 : "rcx", "r11", "memory", "cc");
	return result;
}

static int seize(int pid, int options, int64_t deadline_ns)
{
	int status, error;

	if (ptrace(PTRACE_SEIZE, pid, 0, options) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return -errno;
	error = pd_wait_stop(pid, deadline_ns, &status);
	if (error)
		return error;
	return WIFSTOPPED(status) ? 0 : -ESRCH;
}

int pd_spawn_blank(const struct pd_spawn *spawn, int64_t timeout_ns, uint64_t *syscall_addr)
{
	static uint8_t stack[STACK_BYTES] __attribute__((aligned(16)));
	struct birth birth = {.spawn = spawn};
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | spawn->clone_flags,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = sizeof(stack),
		.set_tid = (uintptr_t)spawn->set_tids,
		.set_tid_size = spawn->n_set_tids,
	};
	sigset_t all, old;
	long pid = -1;
	int error;

	birth.program_fd = memfd_create("predump-blank", MFD_CLOEXEC);
	if (birth.program_fd < 0)
		return -errno;
	birth.our_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	error = birth.our_pidfd < 0 ? -errno : write_program(birth.program_fd);
	if (!error) {
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, &old); /* the new process has them blocked from its first instant on */
		pid = clone_and_call(&args, &birth);
		sigprocmask(SIG_SETMASK, &old, NULL);
		error = pid < 0 ? (int)pid : birth.error;
	}
	close(birth.program_fd);
	close(birth.our_pidfd);
	if (error) {
		if (pid > 0)
			waitpid((pid_t)pid, NULL, __WALL);
		return error;
	}
	error = seize((int)pid, spawn->options, pd_now_ns() + timeout_ns);
	if (error) {
		kill((pid_t)pid, SIGKILL);
		waitpid((pid_t)pid, NULL, __WALL);
		return error;
	}
	*syscall_addr = PROGRAM_ADDR + offsetof(struct program, code) + SYSCALL_OFFSET;
	return (int)pid;
}

extern const uint8_t pd_init_begin[], pd_init_end[];

__asm__(".pushsection .rodata\n"
	"pd_init_begin:\n"
	"1:	mov $61, %eax\n" /* wait4(-1, r13, __WALL, NULL) */
	"	mov $-1, %rdi\n"
	"	mov %r13, %rsi\n"
	"	mov $0x40000000, %edx\n"
	"	xor %r10d, %r10d\n"
	"	syscall\n"
	"	cmp %r12d, %eax\n"
	"	je 2f\n"
	"	cmp $-10, %eax\n" /* ECHILD */
	"	jne 1b\n"
	"2:	mov (%r13), %edi\n"
	"	mov %edi, %eax\n"
	"	shr $8, %edi\n"
	"	and $0x7f, %eax\n"
	"	jz 3f\n"
	"	lea 128(%rax), %edi\n"
	"3:	mov $231, %eax\n" /* exit_group */
	"	syscall\n"
	"	hlt\n"
	"pd_init_end:\n"
	".popsection\n");

uint64_t pd_init_program(const uint8_t **code)
{
	*code = pd_init_begin;
	return (uint64_t)(pd_init_end - pd_init_begin);
}

int pd_adopt_orphans(int on)
{
	int before = 0;

	if (prctl(PR_GET_CHILD_SUBREAPER, &before) || prctl(PR_SET_CHILD_SUBREAPER, (unsigned long)on))
		return -errno;
	return before;
}
