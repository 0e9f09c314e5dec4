/* One thread at each of some known places, each of them below functions of known names.
 *
 * threads
 * Commands: quit. The leader waits in read(2) below `command_loop`.
 *
 *   sleeper   sleep_long -> sleep_inner         clock_nanosleep(2)
 *   waiter    wait_outer -> wait_inner          futex(2), by a condition variable
 *   reader    read_outer -> read_inner          read(2) of a pipe that stays empty
 *   busy      spin_outer -> spin_inner          in user space, with known floating point and vector registers
 */
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>

/* Something after each call, or the compiler makes it a jump and the caller's frame is gone. */
#define STAY() __asm__ volatile("" ::: "memory")

#define NOINLINE __attribute__((noinline, noclone))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static int empty_pipe[2];
static atomic_int n_arrived;
volatile long known_answer = 42;

static NOINLINE void sleep_inner(int seconds)
{
	struct timespec span = {.tv_sec = seconds};

	atomic_fetch_add(&n_arrived, 1);
	clock_nanosleep(CLOCK_MONOTONIC, 0, &span, NULL);
	STAY();
}

static NOINLINE void sleep_long(void)
{
	sleep_inner(3600);
	STAY();
}

static NOINLINE void wait_inner(void)
{
	pthread_mutex_lock(&lock);
	atomic_fetch_add(&n_arrived, 1);
	for (;;)
		pthread_cond_wait(&never, &lock);
}

static NOINLINE void wait_outer(void)
{
	wait_inner();
	STAY();
}

static NOINLINE void read_inner(int fd)
{
	char byte;

	atomic_fetch_add(&n_arrived, 1);
	if (read(fd, &byte, 1) != 1)
		die("read");
	STAY();
}

static NOINLINE void read_outer(int fd)
{
	read_inner(fd);
	STAY();
}

static NOINLINE void spin_inner(long first)
{
	double number = 1.5;

	/* st(0) = pi, xmm7 and (where there is AVX) the upper half of ymm7 from `first`. */
	__asm__ volatile("fldpi\n\t"
			 "movq %0, %%xmm7\n\t"
			 "punpcklqdq %%xmm7, %%xmm7\n\t" ::"r"(first)
			 : "xmm7", "st");
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vinsertf128 $1, %%xmm7, %%ymm7, %%ymm7" ::: "xmm7");
	atomic_fetch_add(&n_arrived, 1);
	for (;;)
		__asm__ volatile("addsd %1, %0\n\tpause" : "+x"(number) : "x"(number));
}

static NOINLINE void spin_outer(long first)
{
	spin_inner(first + 1);
	STAY();
}

static void *sleeper(void *unused)
{
	sleep_long();
	return unused;
}

static void *waiter(void *unused)
{
	wait_outer();
	return unused;
}

static void *reader(void *unused)
{
	read_outer(empty_pipe[0]);
	return unused;
}

static void *busy(void *unused)
{
	spin_outer(0x1122334455667700);
	return unused;
}

static void start(void *(*body)(void *))
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, body, NULL);
	if (errno != 0)
		die("pthread_create");
}

static NOINLINE int command_loop(void)
{
	char line[64];

	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line)))
		if (strcmp(line, "quit") == 0)
			return 0;
	return 1;
}

int main(void)
{
	int code;

	die_with_parent();
	if (pipe(empty_pipe) < 0)
		die("pipe");
	start(sleeper);
	start(waiter);
	start(reader);
	start(busy);
	while (atomic_load(&n_arrived) < 4)
		usleep(1000);
	code = command_loop();
	STAY();
	return code;
}
