/* What the targets share that are to come back exactly as they were: each consists of parts that check themselves.
 *
 * alive-PROGRAM DIRECTORY [ONLY ...]: sets all its parts up (or those named), writes their names to DIRECTORY/ready, and
 * answers questions until nobody asks for MAX_SILENCE_NS. Questions are files, since descriptors of the test's may be
 * others after a restore. The file ask-N (N = 0, 1, ...) says
 *   check [PART]  the answer has a line `PART: WHAT IS WRONG` for each thing that is not as it was; empty if all is
 *   spoil PART    changes one thing that the part checks: from now on a check must name it
 * and answer-N, which appears whole, has the answer.
 */
#ifndef PREDUMP_ALIVE_H
#define PREDUMP_ALIVE_H

#include "target.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MAX_SILENCE_NS (300 * NS_PER_S)
#define MAX_PARTS 64
#define REPORT_BYTES (64UL << 10)
#define POLL_NS (2 * NS_PER_MS)
#define STACK_TOUCHED_BYTES (256UL << 10)

struct part {
	const char *name;
	void (*set_up)(void); /* may be NULL */
	void (*check)(void);  /* says what is wrong by `wrong`; leaves all as it was */
	void (*spoil)(void);
};

static const char *directory;
static char report[REPORT_BYTES];
static size_t report_bytes;
static const char *checked;

__attribute__((format(printf, 1, 2))) static inline void wrong(const char *format, ...)
{
	va_list args;
	size_t room = REPORT_BYTES - report_bytes;

	if (room < 1024)
		return;
	report_bytes += (size_t)snprintf(report + report_bytes, room, "%s: ", checked);
	va_start(args, format);
	int said = vsnprintf(report + report_bytes, 1000, format, args);
	va_end(args);
	report_bytes += said < 1000 ? (size_t)said : 999;
	report[report_bytes++] = '\n';
}

static inline void must(bool done, const char *what)
{
	if (!done)
		die(what);
}

static inline void nap_ns(uint64_t ns)
{
	struct timespec duration = timespec_of_ns(ns);

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &duration, &duration) == EINTR)
		;
}

/* Waits for it, but not for ever; whether it came. */
#define came_true(condition)                                                                       \
	({                                                                                         \
		uint64_t deadline_ns_ = clock_ns(CLOCK_MONOTONIC) + 5 * NS_PER_S;                  \
		bool came_;                                                                        \
		while (!(came_ = (condition)) && clock_ns(CLOCK_MONOTONIC) < deadline_ns_)         \
			nap_ns(NS_PER_MS);                                                         \
		came_;                                                                             \
	})

/* A path in the directory, good until the call after the next. */
__attribute__((format(printf, 1, 2))) static inline const char *path_of(const char *format, ...)
{
	static char paths[2][PATH_MAX];
	static unsigned turn;
	char *path = paths[turn++ % 2];
	size_t used = (size_t)snprintf(path, PATH_MAX, "%s/", directory);
	va_list args;

	va_start(args, format);
	vsnprintf(path + used, PATH_MAX - used, format, args);
	va_end(args);
	return path;
}

/* The whole of a small file, with a zero behind it; without memory of the heap. */
static inline size_t read_whole(const char *path, char *into, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t got;

	must(fd >= 0, path);
	while (used + 1 < room && (got = read(fd, into + used, room - 1 - used)) > 0)
		used += (size_t)got;
	close(fd);
	into[used] = '\0';
	return used;
}

static inline void write_whole(const char *name, const char *content, size_t bytes)
{
	char temporary[PATH_MAX];

	snprintf(temporary, sizeof(temporary), "%s/.%s", directory, name);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	must(fd >= 0 && write(fd, content, bytes) == (ssize_t)bytes && close(fd) == 0, temporary);
	must(rename(temporary, path_of("%s", name)) == 0, name);
}

/* In a child: what it says is its exit status. Memory of this process stays as it is. */
static inline int in_child(int (*act)(void))
{
	pid_t child = (pid_t)syscall(SYS_fork); /* no handlers of the C library's */
	int status = -1;

	must(child >= 0, "fork");
	if (child == 0)
		_exit(act());
	while (waitpid(child, &status, __WALL) < 0)
		must(errno == EINTR, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* ---- values that are remembered as text ---- */

static inline void compare_text(const char *what, const char *before, const char *now)
{
	size_t line = 0;

	if (strcmp(before, now) == 0)
		return;
	for (size_t i = 0; before[i] == now[i]; i++)
		if (before[i] == '\n')
			line = i + 1;
	wrong("%s was '%.*s' and is '%.*s'", what, (int)strcspn(before + line, "\n"), before + line,
	      (int)strcspn(now + line, "\n"), now + line);
}

static inline void compare_number(const char *what, uint64_t before, uint64_t now)
{
	if (before != now)
		wrong("%s was %#lx and is %#lx", what, before, now);
}

/* ---- the questions ---- */

static inline const struct part *part_named(const struct part *parts, const char *name)
{
	for (; parts->name != NULL; parts++)
		if (strcmp(parts->name, name) == 0)
			return parts;
	errno = EINVAL;
	die(name);
}

static inline void answer_question(const struct part *parts, const bool *is_on, unsigned number)
{
	char question[100], name[40];

	read_whole(path_of("ask-%u", number), question, sizeof(question));
	report_bytes = 0;
	if (strncmp(question, "spoil ", 6) == 0)
		part_named(parts, question + 6)->spoil();
	else
		for (size_t i = 0; parts[i].name != NULL; i++)
			if (is_on[i] && (question[5] == '\0' || strcmp(question + 6, parts[i].name) == 0)) {
				checked = parts[i].name;
				parts[i].check();
			}
	snprintf(name, sizeof(name), "answer-%u", number);
	write_whole(name, report, report_bytes);
}

__attribute__((noreturn)) static inline void answer_questions(const struct part *parts, const bool *is_on)
{
	for (unsigned number = 0;; number++) {
		uint64_t end_ns = clock_ns(CLOCK_MONOTONIC) + MAX_SILENCE_NS;

		while (access(path_of("ask-%u", number), F_OK) < 0) {
			if (clock_ns(CLOCK_MONOTONIC) > end_ns)
				exit(1);
			nap_ns(POLL_NS);
		}
		answer_question(parts, is_on, number);
	}
}

/* So that no check makes the stack grow. */
static inline void touch_stack(void)
{
	volatile char room[STACK_TOUCHED_BYTES];

	for (size_t i = 0; i < sizeof(room); i += PAGE_BYTES)
		room[i] = 0;
}

/* `parts` ends with one without a name. */
__attribute__((noreturn)) static inline void live(int argc, char **argv, const struct part *parts)
{
	bool is_on[MAX_PARTS] = {false};

	if (argc < 2) {
		fprintf(stderr, "usage: %s DIRECTORY [PART ...]\n", argv[0]);
		exit(2);
	}
	directory = argv[1];
	touch_stack();
	for (int i = 2; i < argc; i++)
		is_on[part_named(parts, argv[i]) - parts] = true;
	report_bytes = 0;
	for (size_t i = 0; parts[i].name != NULL; i++) {
		is_on[i] |= argc == 2;
		if (!is_on[i])
			continue;
		if (parts[i].set_up != NULL)
			parts[i].set_up();
		report_bytes += (size_t)sprintf(report + report_bytes, "%s\n", parts[i].name);
	}
	write_whole("ready", report, report_bytes);
	answer_questions(parts, is_on);
}

#endif
