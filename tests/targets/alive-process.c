/* A process that is to come back with all that is set for it; see alive.h.
 *
 * Its last part makes it a user without privileges under filters, for what comes before needs them.
 */
#include "alive.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#define TEXT_BYTES 4096
#define NOBODY 65534

/* A part whose values are text, as it was when all had been set up. */
struct text {
	void (*tell)(char *into);
	char before[TEXT_BYTES];
};

static void compare_with_before(struct text *text)
{
	char now[TEXT_BYTES] = "";

	text->tell(now);
	if (text->before[0] == '\0')
		strcpy(text->before, now);
	compare_text("one of them", text->before, now);
}

/* The lines of /proc/self/task/TID/status that are named. */
static void tell_status(char *into, pid_t tid, const char *const *names)
{
	static char status[8192];
	char path[64], name[40];

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	read_whole(path, status, sizeof(status));
	for (; *names != NULL; names++) {
		snprintf(name, sizeof(name), "\n%s:", *names);
		char *line = strstr(status, name);

		if (line != NULL)
			strncat(into, line + 1, strcspn(line + 1, "\n") + 1);
	}
}

/* ---- directories ---- */

static void tell_directories(char *into)
{
	static const char *const names[] = {"Umask", NULL};
	char cwd[PATH_MAX];

	must(getcwd(cwd, sizeof(cwd)) != NULL, "getcwd");
	sprintf(into, "%.2000s\n", cwd);
	tell_status(into + strlen(into), gettid(), names);
}

static struct text directories = {.tell = tell_directories};

static void set_up_directories(void)
{
	must(mkdir(path_of("deep"), 0755) == 0 && chdir(path_of("deep")) == 0, "chdir");
	umask(0137);
}

static void check_directories(void)
{
	compare_with_before(&directories);
}

static void spoil_directories(void)
{
	umask(0136);
}

/* ---- limits ---- */

static void tell_limits(char *into)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit;

		must(getrlimit((__rlimit_resource_t)i, &limit) == 0, "getrlimit");
		into += sprintf(into, "%d: %lx %lx\n", i, limit.rlim_cur, limit.rlim_max);
	}
}

static struct text limits = {.tell = tell_limits};

static void limit_to(int resource, rlim_t soft, rlim_t hard)
{
	must(setrlimit((__rlimit_resource_t)resource, &(struct rlimit){soft, hard}) == 0, "setrlimit");
}

static void set_up_limits(void)
{
	limit_to(RLIMIT_NOFILE, 123, 456);
	limit_to(RLIMIT_CORE, 0, 1 << 20);
	limit_to(RLIMIT_CPU, 100000, 200000);
	limit_to(RLIMIT_FSIZE, 1L << 33, 1L << 34);
}

static void check_limits(void)
{
	compare_with_before(&limits);
}

static void spoil_limits(void)
{
	limit_to(RLIMIT_NOFILE, 122, 456);
}

/* ---- settings ---- */

static void tell_settings(char *into)
{
	static const struct {
		const char *name;
		int option;
	} told[] = {{"tsc", PR_GET_TSC}, {"subreaper", PR_GET_CHILD_SUBREAPER}, {"death signal", PR_GET_PDEATHSIG}},
	  returned[] = {{"dumpable", PR_GET_DUMPABLE},	 {"keepcaps", PR_GET_KEEPCAPS}, {"slack", PR_GET_TIMERSLACK},
			{"huge pages", PR_GET_THP_DISABLE}, {"securebits", PR_GET_SECUREBITS}, {"mce_kill", PR_MCE_KILL_GET},
			{"mdwe", 66}};
	static char text[256];

	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
		int value = -1;

		must(prctl(told[i].option, &value, 0, 0, 0) == 0, told[i].name);
		into += sprintf(into, "%s %d\n", told[i].name, value);
	}
	for (size_t i = 0; i < sizeof(returned) / sizeof(returned[0]); i++)
		into += sprintf(into, "%s %d\n", returned[i].name, prctl(returned[i].option, 0, 0, 0, 0));
	into += sprintf(into, "personality %x\n", personality(0xffffffff));
	read_whole("/proc/self/oom_score_adj", text, sizeof(text));
	into += sprintf(into, "oom_score_adj %s", text);
}

static struct text settings = {.tell = tell_settings};

static void set_up_settings(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	must(fd >= 0 && write(fd, "77", 2) == 2 && close(fd) == 0, "oom_score_adj");
	must(personality(ADDR_NO_RANDOMIZE | UNAME26) >= 0, "personality");
	must(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "PR_SET_CHILD_SUBREAPER");
	must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0, "PR_SET_THP_DISABLE");
	must(prctl(PR_SET_SECUREBITS, SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED) == 0, "PR_SET_SECUREBITS");
	must(prctl(PR_SET_TIMERSLACK, 77777UL) == 0, "PR_SET_TIMERSLACK");
	must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0, "PR_MCE_KILL");
	prctl(65, 1, 0, 0, 0); /* PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: where there is such a thing */
}

static void check_settings(void)
{
	void *at;

	compare_with_before(&settings);
	at = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at != MAP_FAILED && prctl(66, 0, 0, 0, 0) == 1)
		wrong("memory that can be written and executed is allowed");
}

static void spoil_settings(void)
{
	must(prctl(PR_SET_TIMERSLACK, 77776UL) == 0, "PR_SET_TIMERSLACK");
}

/* ---- a thread that is somebody else ---- */

static const char *const who[] = {"Uid",    "Gid",    "Groups", "CapInh",     "CapPrm",	 "CapEff",
				  "CapBnd", "CapAmb", "Seccomp", "NoNewPrivs", "Seccomp_filters", NULL};
static pid_t other_tid;

static void tell_other(char *into)
{
	tell_status(into, other_tid, who);
}

static struct text other = {.tell = tell_other};

static void keep_capabilities(unsigned effective, unsigned permitted, unsigned inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2] = {{effective, permitted, inheritable}};

	must(syscall(SYS_capset, &header, sets) == 0, "capset");
}

static void *be_another(void *unused)
{
	gid_t groups[] = {1001, 1002};

	must(syscall(SYS_setgroups, 2, groups) == 0, "setgroups");
	must(syscall(SYS_setresgid, 2001, 2002, 2003) == 0, "setresgid");
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME) == 0, "PR_CAPBSET_DROP");
	must(prctl(PR_SET_KEEPCAPS, 1) == 0, "PR_SET_KEEPCAPS");
	must(syscall(SYS_setresuid, 3001, 3002, 3003) == 0, "setresuid");
	keep_capabilities(1 << CAP_KILL, 1 << CAP_KILL | 1 << CAP_CHOWN, 1 << CAP_CHOWN);
	other_tid = gettid();
	for (;;)
		pause();
	return unused;
}

static void set_up_thread(void)
{
	pthread_t handle;

	must(pthread_create(&handle, NULL, be_another, NULL) == 0 && came_true(other_tid != 0), "pthread_create");
}

static void check_thread(void)
{
	compare_with_before(&other);
}

static void spoil_thread(void)
{
	*strrchr(other.before, '3') ^= 1; /* nobody can change it any more */
}

/* ---- credentials and filters ---- */

static void tell_credentials(char *into)
{
	tell_status(into, gettid(), who);
}

static struct text credentials = {.tell = tell_credentials};

static void refuse(unsigned number, unsigned error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "seccomp");
}

/* By plain system calls, which leave the other thread alone. */
static void set_up_credentials(void)
{
	gid_t groups[] = {77, 88};

	must(syscall(SYS_setgroups, 2, groups) == 0 && syscall(SYS_setresgid, NOBODY, 1234, NOBODY) == 0, "setresgid");
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0, "PR_CAPBSET_DROP");
	must(prctl(PR_SET_KEEPCAPS, 1) == 0, "PR_SET_KEEPCAPS");
	must(syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0, "setresuid");
	keep_capabilities(1 << CAP_KILL, 1 << CAP_KILL | 1 << CAP_CHOWN, 1 << CAP_FOWNER);
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
	refuse(SYS_getpriority, 87);
	refuse(SYS_getpriority, 88); /* the newest of them has the say where they say the same */
	refuse(SYS_uname, 89);
}

static void check_credentials(void)
{
	struct utsname name;

	compare_with_before(&credentials);
	compare_number("getpriority", 88, (uint64_t)(getpriority(PRIO_PROCESS, 0) < 0 ? errno : 0));
	compare_number("uname", 89, (uint64_t)(uname(&name) < 0 ? errno : 0));
}

static void spoil_credentials(void)
{
	refuse(SYS_getpriority, 90);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{"directories", set_up_directories, check_directories, spoil_directories},
		{"limits", set_up_limits, check_limits, spoil_limits},
		{"settings", set_up_settings, check_settings, spoil_settings},
		{"thread", set_up_thread, check_thread, spoil_thread},
		{"credentials", set_up_credentials, check_credentials, spoil_credentials},
		{NULL, NULL, NULL, NULL},
	};

	live(argc, argv, parts);
}
