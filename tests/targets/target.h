/* What the test targets share: dying with the test, time, pseudo-random pages, the line protocol.
 *
 * Protocol: the target prints one line `ready ...`, then answers each line on stdin with one line
 * on stdout that begins with `ok` or `bad`.
 */
#ifndef PREDUMP_TARGET_H
#define PREDUMP_TARGET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096UL
#define WORDS_PER_PAGE (PAGE_BYTES / sizeof(uint64_t))
#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL

__attribute__((noreturn)) static inline void die(const char *what)
{
	printf("bad %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

/* The target must not outlive the test, whatever becomes of the test. */
static inline void die_with_parent(void)
{
	pid_t parent = getppid();

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("prctl PR_SET_PDEATHSIG");
	if (getppid() != parent)
		exit(1);
}

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline struct timespec timespec_of_ns(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

/* splitmix64: each state gives one well mixed word. */
static inline uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* A page's content is a function of its seed; seed 0 is the page of zeros. */
static inline void fill_page(void *page, uint64_t seed)
{
	uint64_t *words = page, state = seed;

	if (seed == 0) {
		memset(page, 0, PAGE_BYTES);
		return;
	}
	for (size_t i = 0; i < WORDS_PER_PAGE; i++)
		words[i] = next_random(&state);
}

/* Offset of the first wrong byte, rounded down to a word, or -1. */
static inline long wrong_offset(const void *page, uint64_t seed)
{
	const uint64_t *words = page;
	uint64_t state = seed;

	for (size_t i = 0; i < WORDS_PER_PAGE; i++) {
		uint64_t want = seed == 0 ? 0 : next_random(&state);

		if (words[i] != want)
			return (long)(i * sizeof(uint64_t));
	}
	return -1;
}

__attribute__((format(printf, 1, 2))) static inline void answer(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* The next command without its newline; false at the end of input. */
static inline bool next_command(char *line, size_t size)
{
	if (fgets(line, (int)size, stdin) == NULL)
		return false;
	line[strcspn(line, "\n")] = '\0';
	return true;
}

#endif
