/* sleeper CALL MS: at the command `sleep` waits so long in one system call, once, and answers how that ended:
 * `ok result=R ns=N`, with R 0 where it took its whole time.
 */
#include "target.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>

static int wait_in(const char *call, uint64_t ns)
{
	struct timespec duration = timespec_of_ns(ns);
	static uint32_t word;

	if (strcmp(call, "nanosleep") == 0)
		return (int)syscall(SYS_nanosleep, &duration, NULL);
	if (strcmp(call, "clock_nanosleep") == 0)
		return (int)syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &duration, NULL);
	if (strcmp(call, "futex") == 0)
		return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &duration, NULL, 0) < 0 && errno == ETIMEDOUT
			       ? 0
			       : -1;
	if (strcmp(call, "poll") == 0)
		return poll(NULL, 0, (int)(ns / NS_PER_MS));
	die(call);
}

int main(int argc, char **argv)
{
	char line[256];

	die_with_parent();
	if (argc < 3)
		die("arguments");
	answer("ready");
	while (next_command(line, sizeof(line)) && strcmp(line, "quit") != 0) {
		uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
		int result = wait_in(argv[1], strtoul(argv[2], NULL, 10) * NS_PER_MS);

		answer("ok result=%d ns=%lu", result, clock_ns(CLOCK_MONOTONIC) - start_ns);
	}
	return 0;
}
