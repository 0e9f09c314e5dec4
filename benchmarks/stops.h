/* Stopping all threads of a process and letting them go on, for the programs that say how fast that can be done.
 *
 * They are independent of predump's code on purpose.
 */
#ifndef BENCHMARKS_STOPS_H
#define BENCHMARKS_STOPS_H

#include <dirent.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#define MAX_THREADS 4096
#define PAUSE_NS 20000000

static pid_t tids[MAX_THREADS];
static int n_tids;

static void fail(const char *what)
{
	perror(what);
	exit(1); /* the kernel resumes what was stopped */
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The main thread is the first. */
static void list_threads(const char *pid)
{
	char path[64];
	struct dirent *entry;
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	directory = opendir(path);
	if (!directory)
		fail(path);
	tids[n_tids++] = atoi(pid);
	while ((entry = readdir(directory)) && n_tids < MAX_THREADS)
		if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != tids[0])
			tids[n_tids++] = atoi(entry->d_name);
	closedir(directory);
}

/* Asking again and again is quicker than to be woken up. */
static int wait_for(pid_t tid)
{
	int status;
	pid_t got;

	while ((got = waitpid(tid, &status, __WALL | WNOHANG)) == 0)
		sched_yield();
	if (got < 0)
		fail("waitpid");
	return status;
}

/* `options` are of ptrace(2). */
static void stop_all(long options)
{
	for (int i = 0; i < n_tids; i++)
		if (ptrace(PTRACE_SEIZE, tids[i], 0, options) || ptrace(PTRACE_INTERRUPT, tids[i], 0, 0))
			fail("ptrace");
	for (int i = 0; i < n_tids; i++)
		wait_for(tids[i]);
}

static void resume_all(void)
{
	for (int i = 0; i < n_tids; i++)
		ptrace(PTRACE_DETACH, tids[i], 0, 0);
}

#endif
