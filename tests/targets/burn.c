/* Threads that burn CPU time, children that do, and a thread that sleeps in a call which a stop would disturb.
 *
 * burn THREADS
 * Commands: fork (-> ok PID: a child that burns, born now), naps (-> ok naps=N interrupted=N), quit.
 */
#include "target.h"

#include <pthread.h>
#include <sys/epoll.h>

#define NAP_MS 20

static unsigned long n_naps, n_interrupted;

static void *burn(void *unused)
{
	for (volatile unsigned long i = 0;; i++)
		;
	return unused;
}

static void *nap(void *unused)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;

	if (epoll < 0)
		die("epoll_create1");
	for (;;) {
		if (epoll_wait(epoll, &event, 1, NAP_MS) < 0)
			__atomic_fetch_add(&n_interrupted, 1, __ATOMIC_RELAXED);
		else
			__atomic_fetch_add(&n_naps, 1, __ATOMIC_RELAXED);
	}
	return unused;
}

static void start(void *(*body)(void *))
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, body, NULL);
	if (errno != 0)
		die("pthread_create");
}

static void fork_a_burner(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (child == 0) {
		die_with_parent();
		burn(NULL);
	}
	answer("ok %d", child);
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 2) {
		fprintf(stderr, "usage: burn THREADS\n");
		return 2;
	}
	die_with_parent();
	for (unsigned long i = strtoul(argv[1], NULL, 10); i > 0; i--)
		start(burn);
	start(nap);
	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "quit") == 0)
			return 0;
		if (strcmp(line, "fork") == 0)
			fork_a_burner();
		else if (strcmp(line, "naps") == 0)
			answer("ok naps=%lu interrupted=%lu", __atomic_load_n(&n_naps, __ATOMIC_RELAXED),
			       __atomic_load_n(&n_interrupted, __ATOMIC_RELAXED));
	}
	return 1;
}
