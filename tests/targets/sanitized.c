/* A program for compilers' sanitizers, whose shadow memory spans terabytes: two threads allocate, write and free.
 *
 * sanitized
 *
 * Commands (one line each, answered by one line):
 *   change SEED  BLOCKS blocks are freed and allocated again, and written
 *   check        the self-check: every block against the content it must have
 *   quit         check, then exit: 0 when clean, else 1
 */
#include "target.h"

#include <pthread.h>

#define N_THREADS 2
#define BLOCKS 200 /* of each thread */
#define PAUSE_NS (2 * NS_PER_MS)

struct blocks {
	void *start[BLOCKS]; /* each of one page */
	uint64_t seeds[BLOCKS];
	uint64_t random_state;
	pthread_mutex_t lock;
};

static struct blocks all[N_THREADS];

static void replace(struct blocks *blocks, size_t block)
{
	free(blocks->start[block]);
	blocks->start[block] = malloc(PAGE_BYTES);
	if (blocks->start[block] == NULL)
		die("malloc");
	blocks->seeds[block] = next_random(&blocks->random_state);
	fill_page(blocks->start[block], blocks->seeds[block]);
}

static void replace_some(struct blocks *blocks, size_t n)
{
	pthread_mutex_lock(&blocks->lock);
	while (n-- > 0)
		replace(blocks, next_random(&blocks->random_state) % BLOCKS);
	pthread_mutex_unlock(&blocks->lock);
}

static void *replace_on_and_on(void *blocks)
{
	struct timespec pause = timespec_of_ns(PAUSE_NS);

	for (;;) {
		replace_some(blocks, 1);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static bool check(void)
{
	bool clean = true;

	for (size_t i = 0; i < N_THREADS; i++) {
		pthread_mutex_lock(&all[i].lock);
		for (size_t block = 0; block < BLOCKS; block++)
			clean = clean && wrong_offset(all[i].start[block], all[i].seeds[block]) < 0;
		pthread_mutex_unlock(&all[i].lock);
	}
	answer(clean ? "ok" : "bad a block differs");
	return clean;
}

int main(void)
{
	char line[100];

	die_with_parent();
	for (size_t i = 0; i < N_THREADS; i++) {
		pthread_t thread;

		pthread_mutex_init(&all[i].lock, NULL);
		all[i].random_state = i;
		for (size_t block = 0; block < BLOCKS; block++)
			replace(&all[i], block);
		errno = pthread_create(&thread, NULL, replace_on_and_on, &all[i]);
		if (errno != 0)
			die("pthread_create");
	}
	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strncmp(line, "change", 6) == 0) {
			for (size_t i = 0; i < N_THREADS; i++)
				replace_some(&all[i], BLOCKS);
			answer("ok");
		} else if (strcmp(line, "check") == 0)
			check();
		else if (strcmp(line, "quit") == 0)
			_exit(check() ? 0 : 1); /* at an exit, leaks would be looked for, with ptrace */
		else
			answer("bad command '%s'", line);
	}
	return 0;
}
