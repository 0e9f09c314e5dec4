/* A process with many threads and descriptors, all at rest: state THREADS DESCRIPTORS
 *
 * The threads beside the main one wait in turn in read, futex, epoll_wait and nanosleep. Descriptors beyond the first three
 * are in turn a file, both ends of a pipe, an eventfd, both ends of a Unix socket pair and an epoll.
 */
#include "../tests/targets/target.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define STACK_BYTES (64 << 10)

static int never[2], epoll_fd;
static sem_t no_post;

static void *wait_for_ever(void *number)
{
	const struct timespec long_time = {1000000, 0};
	struct epoll_event event;
	char byte;

	switch ((long)number % 4) {
	case 0:
		(void)!read(never[0], &byte, 1);
		break;
	case 1:
		sem_wait(&no_post);
		break;
	case 2:
		epoll_wait(epoll_fd, &event, 1, -1);
		break;
	default:
		nanosleep(&long_time, NULL);
	}
	return NULL;
}

/* Opens one more thing; returns how many descriptors that took. */
static int open_one(int kind, const char *path)
{
	int pair[2];

	switch (kind) {
	case 0:
		return open(path, O_RDONLY | O_CLOEXEC) < 0 ? -1 : 1;
	case 1:
		return pipe(pair) ? -1 : 2;
	case 2:
		return eventfd(1, EFD_NONBLOCK) < 0 ? -1 : 1;
	case 3:
		return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ? -1 : 2;
	default:
		return epoll_create1(0) < 0 ? -1 : 1;
	}
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	pthread_attr_t attr;
	pthread_t thread;
	char line[64];

	if (argc != 3) {
		fprintf(stderr, "usage: state THREADS DESCRIPTORS\n");
		return 2;
	}
	die_with_parent();
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	sem_init(&no_post, 0, 0);
	epoll_fd = epoll_create1(0);
	if (pipe(never))
		die("pipe");
	for (int kind = 0, n = 6; n < atoi(argv[2]); kind++) {
		int opened = open_one(kind % 5, "/proc/self/exe");

		if (opened < 0)
			die("opening a descriptor");
		n += opened;
	}
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (long i = 1; i < atoi(argv[1]); i++)
		if (pthread_create(&thread, &attr, wait_for_ever, (void *)i))
			die("pthread_create");
	answer("ready %d", getpid());
	while (next_command(line, sizeof(line)) && strcmp(line, "quit"))
		answer("ok");
	answer("ok");
	return 0;
}
