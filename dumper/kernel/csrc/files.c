/* Open files of stopped processes: what /proc says of them, which descriptors share one, what a socket tells. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "predump.h"

static int32_t result_of(ssize_t result)
{
	return result < 0 ? -errno : (int32_t)result;
}

static int32_t read_whole(int dir_fd, const char *name, uint8_t *into, size_t room)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	int32_t got;

	if (fd < 0)
		return -errno;
	/* The kernel makes the whole text at the first read: a short one is all of it. */
	got = result_of(read(fd, into, room));
	close(fd);
	return (size_t)got == room ? -EOVERFLOW : got;
}

/*
 * Files without a path of which all of one kind look alike. To look at them one by one costs as much as to read the
 * link, so it is done once for each kind; `inode` 0: each has its own, which the link says.
 */
static struct {
	const char *prefix;
	bool is_known;
	uint32_t mode, device_major, device_minor;
	uint64_t inode;
} alike[] = {
	{.prefix = "socket:["},
	{.prefix = "pipe:["},
	{.prefix = "anon_inode:[eventfd]"},
	{.prefix = "anon_inode:[eventpoll]"},
	{.prefix = "anon_inode:[timerfd]"},
	{.prefix = "anon_inode:[signalfd]"},
	{.prefix = "anon_inode:inotify"},
};
#define N_ALIKE (sizeof(alike) / sizeof(alike[0]))

static size_t find_alike(const struct pd_open_file *file)
{
	size_t i = N_ALIKE;

	if (file->link_bytes > 0 && file->link[0] != '/')
		for (i = 0; i < N_ALIKE; i++)
			if (strncmp((const char *)file->link, alike[i].prefix, strlen(alike[i].prefix)) == 0)
				break;
	return i;
}

static void look_at(int fd_dir, const char *name, struct pd_open_file *file)
{
	struct statx status;

	/* What is cached will do: the server of a network file system, or one that is frozen itself, is not waited for. */
	file->stat_result = result_of(statx(fd_dir, name, AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &status));
	if (file->stat_result < 0)
		return;
	file->mode = status.stx_mode;
	file->n_links = status.stx_nlink;
	file->device_major = status.stx_dev_major;
	file->device_minor = status.stx_dev_minor;
	file->special_major = status.stx_rdev_major;
	file->special_minor = status.stx_rdev_minor;
	file->inode = status.stx_ino;
	file->size_bytes = status.stx_size;
	file->mtime_ns = (uint64_t)status.stx_mtime.tv_sec * 1000000000ULL + status.stx_mtime.tv_nsec;
}

int pd_read_open_file(int fd_dir, int fdinfo_dir, int fd, struct pd_open_file *file)
{
	char name[16];
	size_t kind;

	memset(file, 0, offsetof(struct pd_open_file, link));
	snprintf(name, sizeof(name), "%d", fd);
	file->link_bytes = result_of(readlinkat(fd_dir, name, (char *)file->link, sizeof(file->link) - 1));
	if (file->link_bytes == -ENOENT || file->link_bytes == -ESRCH)
		return file->link_bytes;
	file->link[file->link_bytes > 0 ? file->link_bytes : 0] = 0;
	file->fdinfo_bytes = read_whole(fdinfo_dir, name, file->fdinfo, sizeof(file->fdinfo));
	kind = find_alike(file);
	if (kind == N_ALIKE || !alike[kind].is_known) {
		look_at(fd_dir, name, file);
		if (kind == N_ALIKE || file->stat_result < 0)
			return 0;
		alike[kind].mode = file->mode;
		alike[kind].device_major = file->device_major;
		alike[kind].device_minor = file->device_minor;
		alike[kind].inode = S_ISSOCK(file->mode) || S_ISFIFO(file->mode) ? 0 : file->inode;
		alike[kind].is_known = true;
		return 0;
	}
	file->mode = alike[kind].mode;
	file->n_links = 1;
	file->device_major = alike[kind].device_major;
	file->device_minor = alike[kind].device_minor;
	file->inode = alike[kind].inode;
	if (file->inode == 0)
		file->inode = strtoull((const char *)file->link + strlen(alike[kind].prefix), NULL, 10);
	return 0;
}

/* ---- what is shared ---- */

static int compare(const void *left, const void *right, void *kcmp_type)
{
	const struct pd_file_ref *a = left, *b = right;
	long order;

	if (a->group != b->group)
		return a->group < b->group ? -1 : 1;
	if (a == b)
		return 0;
	order = syscall(SYS_kcmp, a->tid, b->tid, *(int *)kcmp_type, a->fd, b->fd);
	if (order == 0)
		return 0;
	if (order == 1 || order == 2)
		return order == 1 ? -1 : 1;
	/* Not to be told: apart, in the order of their numbers. */
	if (a->tid != b->tid)
		return a->tid < b->tid ? -1 : 1;
	return a->fd < b->fd ? -1 : 1;
}

int pd_order_files(struct pd_file_ref *refs, uint64_t n_refs, int kcmp_type)
{
	uint32_t number = 0;

	qsort_r(refs, n_refs, sizeof(*refs), compare, &kcmp_type);
	for (uint64_t i = 0; i < n_refs; i++) {
		if (i == 0 || compare(&refs[i - 1], &refs[i], &kcmp_type) != 0)
			number++;
		refs[i].number = number;
	}
	return 0;
}

int pd_compare_tables(int tid, int other_tid)
{
	return result_of(syscall(SYS_kcmp, tid, other_tid, KCMP_FILES, 0, 0));
}

/* ---- sockets ---- */

static int32_t option(int fd, int level, int name)
{
	int value = -1;
	socklen_t bytes = sizeof(value);

	return getsockopt(fd, level, name, &value, &bytes) < 0 ? -1 : value;
}

static int32_t waiting(int fd, unsigned long request)
{
	int bytes = 0;

	return ioctl(fd, request, &bytes) < 0 ? -errno : bytes;
}

int pd_read_socket(int fd, struct pd_socket *into)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN | POLLRDHUP};
	socklen_t bytes = sizeof(into->cookie);

	into->domain = option(fd, SOL_SOCKET, SO_DOMAIN);
	if (into->domain < 0)
		return -errno;
	into->type = option(fd, SOL_SOCKET, SO_TYPE);
	into->protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
	into->listens = option(fd, SOL_SOCKET, SO_ACCEPTCONN);
	into->in_bytes = waiting(fd, SIOCINQ);
	into->out_bytes = waiting(fd, SIOCOUTQ);
	if (getsockopt(fd, SOL_SOCKET, PD_SO_NETNS_COOKIE, &into->cookie, &bytes) < 0)
		into->cookie = 0;
	bytes = sizeof(into->local);
	into->local_bytes = getsockname(fd, (struct sockaddr *)into->local, &bytes) < 0 ? -errno : (int32_t)bytes;
	bytes = sizeof(into->peer);
	into->peer_bytes = getpeername(fd, (struct sockaddr *)into->peer, &bytes) < 0 ? -errno : (int32_t)bytes;
	/* A program attached to the socket: with no room, the call says how many instructions there are. */
	bytes = 0;
	into->n_filter = getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &bytes) < 0 ? -errno : (int32_t)bytes;
	into->events = poll(&poller, 1, 0) > 0 ? poller.revents : 0;
	return 0;
}

int pd_read_options(int fd, struct pd_option *options, uint64_t n_options)
{
	for (uint64_t i = 0; i < n_options; i++) {
		socklen_t bytes = sizeof(options[i].value);
		int done = getsockopt(fd, options[i].level, options[i].name, options[i].value, &bytes);

		options[i].bytes = done < 0 ? -errno : (int32_t)bytes;
	}
	return 0;
}

int64_t pd_peek(int fd, int credentials, uint8_t *into, uint64_t room, int32_t *flags)
{
	/*
	 * Credentials come first and fill the room there is for control messages: a descriptor in flight finds none, so
	 * that it is reported as cut off, not installed here.
	 */
	uint8_t control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec piece = {.iov_base = into, .iov_len = room};
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = credentials ? sizeof(control) : 0,
	};
	ssize_t got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);

	*flags = message.msg_flags;
	return got < 0 ? -errno : got;
}

int pd_join_namespace(int namespace_fd)
{
	return setns(namespace_fd, 0) < 0 ? -errno : 0;
}

int64_t pd_tee(int source_fd, int into_fd, uint64_t n_bytes)
{
	ssize_t doubled = tee(source_fd, into_fd, n_bytes, SPLICE_F_NONBLOCK);

	return doubled < 0 ? -errno : doubled;
}
