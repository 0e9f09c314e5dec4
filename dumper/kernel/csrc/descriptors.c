/* Descriptors of kinds that Python does not make, for files that are opened again by a restore. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "predump.h"

#define NS_PER_S 1000000000ULL
#define SET_NEXT_WATCH _IOW('I', 0, int32_t)    /* INOTIFY_IOC_SETNEXTWD, since 4.15: include/uapi/linux/inotify.h */
#define SET_TICKS _IOW('T', 0, uint64_t)	/* TFD_IOC_SET_TICKS, since 3.17: include/linux/timerfd.h */

static int result_of(long result)
{
	return result < 0 ? -errno : (int)result;
}

int pd_open_path(const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags, .resolve = resolve};

	return result_of(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how)));
}

int pd_open_handle(int mount_fd, int32_t type, const uint8_t *handle, uint32_t n_bytes, int flags)
{
	struct file_handle *wanted = malloc(sizeof(*wanted) + n_bytes);
	int result;

	if (!wanted)
		return -ENOMEM;
	wanted->handle_bytes = n_bytes;
	wanted->handle_type = type;
	memcpy(wanted->f_handle, handle, n_bytes);
	result = result_of(open_by_handle_at(mount_fd, wanted, flags));
	free(wanted);
	return result;
}

int pd_make_timerfd(int clock, int flags)
{
	return result_of(timerfd_create(clock, flags));
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

int pd_set_timerfd(int fd, int flags, uint64_t value_ns, uint64_t interval_ns)
{
	struct itimerspec times = {.it_value = timespec_of(value_ns), .it_interval = timespec_of(interval_ns)};

	return result_of(timerfd_settime(fd, flags, &times, NULL));
}

int pd_set_timerfd_ticks(int fd, uint64_t ticks)
{
	return result_of(ioctl(fd, SET_TICKS, &ticks));
}

int pd_make_signalfd(uint64_t mask, int flags)
{
	return result_of(syscall(SYS_signalfd4, -1, &mask, sizeof(mask), flags));
}

int pd_make_inotify(int flags)
{
	return result_of(inotify_init1(flags));
}

int pd_add_inotify_watch(int fd, int wd, const char *path, uint32_t mask)
{
	if (ioctl(fd, SET_NEXT_WATCH, wd) < 0)
		return -errno;
	return result_of(inotify_add_watch(fd, path, mask));
}

int pd_make_epoll(int flags)
{
	return result_of(epoll_create1(flags));
}

int pd_set_epoll_watch(int epoll_fd, int operation, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	return result_of(epoll_ctl(epoll_fd, operation, fd, &event));
}

int64_t pd_take_epoll_event(int epoll_fd, uint64_t *data)
{
	struct epoll_event event;
	int n_events = epoll_wait(epoll_fd, &event, 1, 0);

	if (n_events > 0)
		*data = event.data.u64;
	return result_of(n_events);
}

int pd_unshare(int flags)
{
	return result_of(unshare(flags));
}
