/* A family of processes as a script says, which stands still.
 *
 * family SCRIPT: a process does one letter after the other, waits then, and ends with SIGTERM:
 *   ( ... )  a child, which does what is inside; the next letter comes when that is done
 *   s  setsid; g  a process group of its own; G  back into the group of its parent; t  a second thread
 *   r  orphans below become its children; R  no longer; w  waits for one child that has ended
 *   x  ends with 7; k  ends by SIGKILL
 * The root says `ready` in the file "ready" of its working directory. Upon SIGUSR1 it writes what it finds by wait(2) of
 * children that have ended into the file "found": their statuses.
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>

static const char *script;
static pthread_t thread;
static bool has_thread;

static void *stand_still(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static const char *behind(const char *open)
{
	int depth = 1;

	while (depth > 0) {
		open++;
		depth += (*open == '(') - (*open == ')');
	}
	return open + 1;
}

static void check(int failed, const char *what)
{
	if (failed)
		die(what);
}

/* Returns when the process is to wait; the descriptor that its parent reads from is closed then. */
static void live(const char *at, int done)
{
	for (;;) {
		int ends[2], child;
		char byte;

		switch (*at++) {
		case '(':
			check(pipe2(ends, O_CLOEXEC), "pipe2");
			child = fork();
			check(child < 0, "fork");
			if (child == 0) {
				close(ends[0]);
				if (done >= 0)
					close(done);
				done = ends[1];
				continue;
			}
			close(ends[1]);
			check(read(ends[0], &byte, 1) != 0, "read");
			close(ends[0]);
			at = behind(at - 1);
			continue;
		case 's':
			check(setsid() < 0, "setsid");
			continue;
		case 'g':
			check(setpgid(0, 0), "setpgid");
			continue;
		case 'G':
			check(setpgid(0, getpgid(getppid())), "setpgid");
			continue;
		case 't':
			check(pthread_create(&thread, NULL, stand_still, NULL) != 0, "pthread_create");
			has_thread = true;
			continue;
		case 'r':
		case 'R':
			check(prctl(PR_SET_CHILD_SUBREAPER, at[-1] == 'r'), "prctl");
			continue;
		case 'w':
			check(wait(NULL) < 0, "wait");
			continue;
		case 'x':
			_exit(7);
		case 'k':
			kill(getpid(), SIGKILL);
			continue;
		case ')':
		case '\0':
			if (done >= 0)
				close(done);
			return;
		default:
			errno = EINVAL;
			die(script);
		}
	}
}

static volatile sig_atomic_t asked;

static void ask(int unused)
{
	(void)unused;
	asked = 1;
}

static void say_found(void)
{
	FILE *file = fopen("found.tmp", "w");
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		fprintf(file, "%d:%d ", pid, status);
	if (has_thread && pthread_kill(thread, 0) != 0)
		fprintf(file, "-1:0 "); /* its library does not know its id */
	fclose(file);
	rename("found.tmp", "found");
}

int main(int argc, char **argv)
{
	sigset_t blocked;
	struct sigaction action = {.sa_handler = ask};
	pid_t root = getpid();

	script = argc > 1 ? argv[1] : "";
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	live(script, -1);
	if (getpid() != root)
		stand_still(NULL);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	sigdelset(&blocked, SIGUSR1);
	close(open("ready", O_CREAT | O_WRONLY, 0600));
	for (;;) {
		sigsuspend(&blocked);
		if (asked)
			say_found();
		asked = 0;
	}
}
