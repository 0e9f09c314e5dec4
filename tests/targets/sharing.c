/* A process whose child shares with it what only threads usually share, or is in a pid namespace of its own.
 *
 * sharing WHAT: memory, descriptors, directories (clone(2) CLONE_VM, CLONE_FILES, CLONE_FS), handlers (CLONE_VM and
 * CLONE_SIGHAND) or ids (CLONE_NEWPID). It says `ready` and the child's pid, and ends with its standard input.
 */
#include "target.h"

#include <sched.h>

#define STACK_BYTES (64 * 1024)

static const struct {
	const char *name;
	int flags;
} kinds[] = {
	{"memory", CLONE_VM},	    {"descriptors", CLONE_FILES},
	{"directories", CLONE_FS},  {"handlers", CLONE_VM | CLONE_SIGHAND},
	{"ids", CLONE_NEWPID},
};

static int stand_still(void *unused)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
	return unused != NULL;
}

int main(int argc, char **argv)
{
	static char stack[STACK_BYTES] __attribute__((aligned(16)));

	die_with_parent();
	for (size_t i = 0; argc == 2 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(argv[1], kinds[i].name) != 0)
			continue;
		int child = clone(stand_still, stack + STACK_BYTES, kinds[i].flags | SIGCHLD, NULL);

		if (child < 0)
			die("clone");
		printf("ready %d\n", child);
		fflush(stdout);
		for (char byte; read(0, &byte, 1) > 0;)
			;
		kill(child, SIGKILL);
		return 0;
	}
	fprintf(stderr, "usage: sharing WHAT\n");
	return 2;
}
