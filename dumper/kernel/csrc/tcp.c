/*
 * TCP connections of stopped processes, read in the kernel's repair mode: net/ipv4/tcp.c, include/uapi/linux/tcp.h.
 *
 * A socket in repair mode refuses to send and to receive for its program, and is closed without a word to its peer. So
 * it is in that mode as briefly as can be, and never when one of these functions returns, but for pd_tcp_silence.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "predump.h"

#define REPAIR_OFF_SILENTLY (-1) /* TCP_REPAIR_OFF_NO_WP: the peer is not probed */
#define PEEK_SLACK_BYTES 65536	 /* the first piece of a send queue may begin before what is unacknowledged: GSO_MAX_SIZE */

enum { STATE_FIN_WAIT_1 = 4, STATE_LAST_ACK = 9, STATE_CLOSING = 11 }; /* include/net/tcp_states.h */

static int get(int fd, int level, int name)
{
	int value = 0;
	socklen_t bytes = sizeof(value);

	return getsockopt(fd, level, name, &value, &bytes) < 0 ? -errno : value;
}

static int set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int32_t waiting(int fd, unsigned long request)
{
	int bytes = 0;

	return ioctl(fd, request, &bytes) < 0 ? -errno : bytes;
}

int pd_tcp_is_silent(int fd)
{
	return get(fd, IPPROTO_TCP, TCP_REPAIR);
}

int pd_tcp_is_locked(int fd)
{
	socklen_t n_instructions = 0; /* with no room for them, the call says how many there are */

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n_instructions) < 0)
		return errno == EACCES ? 1 : -errno; /* an eBPF program */
	return n_instructions > 0;
}

int pd_tcp_lock(int fd)
{
	struct sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = 1, .filter = &drop_all};

	if (pd_tcp_is_silent(fd) == 1 || pd_tcp_is_locked(fd) != 0)
		return -EBUSY;
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

static int end_repair(int fd, int reuse)
{
	int failed;

	if (pd_tcp_is_silent(fd) != 1)
		return 0;
	failed = set(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_SILENTLY);
	/* The kernel takes it away with the mode: a later bind(2) to the port would fail. */
	return failed < 0 ? failed : set(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
}

int pd_tcp_unlock(int fd, int reuse)
{
	int failed = end_repair(fd, reuse);

	if (failed < 0)
		return failed;
	failed = set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0);
	return failed == -ENOENT ? 0 : failed;
}

int pd_tcp_silence(int fd)
{
	return set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
}

/* The size of `struct tcp_info` grows with the kernel: what an older one does not tell is 0. */
static int read_info(int fd, struct tcp_info *info)
{
	socklen_t bytes = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &bytes) < 0 ? -errno : 0;
}

/* What repair mode alone tells: sequence numbers, window, clock, and the send queue, behind the receive queue. */
static int64_t read_in_repair(int fd, struct pd_tcp *into, uint8_t *queue, uint64_t room)
{
	struct tcp_repair_window window;
	socklen_t bytes = sizeof(window);
	struct iovec piece = {.iov_base = queue, .iov_len = room};
	struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
	ssize_t got = 0;

	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &bytes) < 0)
		return -errno;
	into->window[0] = window.snd_wl1;
	into->window[1] = window.snd_wnd;
	into->window[2] = window.max_window;
	into->window[3] = window.rcv_wnd;
	into->window[4] = window.rcv_wup;
	into->mss = get(fd, IPPROTO_TCP, TCP_MAXSEG); /* in repair mode: what the peer announced */
	into->timestamp = (uint32_t)get(fd, IPPROTO_TCP, TCP_TIMESTAMP);
	if (set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE) < 0)
		return -errno;
	into->receive_sequence = (uint32_t)get(fd, IPPROTO_TCP, TCP_QUEUE_SEQ);
	if (set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE) < 0)
		return -errno;
	into->send_sequence = (uint32_t)get(fd, IPPROTO_TCP, TCP_QUEUE_SEQ);
	if (into->unacknowledged_bytes > 0)
		got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
	return got < 0 ? -errno : got;
}

static int64_t read_send_queue(int fd, int reuse, struct pd_tcp *into, uint8_t *queue, uint64_t room)
{
	bool has_fin = into->state == STATE_FIN_WAIT_1 || into->state == STATE_LAST_ACK || into->state == STATE_CLOSING;
	int64_t got;
	int failed = set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);

	if (failed < 0)
		return failed;
	got = read_in_repair(fd, into, queue, room);
	failed = end_repair(fd, reuse);
	if (got < 0 || failed < 0)
		return got < 0 ? got : failed;
	/* Our end of the stream takes a sequence number, and no byte. */
	into->unacknowledged_bytes -= has_fin && into->unacknowledged_bytes > 0;
	into->unsent_bytes -= has_fin && into->unsent_bytes > 0;
	if (got < into->unacknowledged_bytes)
		return -EAGAIN;
	memmove(queue, queue + got - into->unacknowledged_bytes, into->unacknowledged_bytes);
	return into->unacknowledged_bytes;
}

int64_t pd_tcp_read(int fd, int reuse, struct pd_tcp *into, uint8_t *queues, uint64_t room)
{
	struct pollfd poller = {.fd = fd, .events = POLLPRI};
	struct tcp_info before, after;
	ssize_t got = 0;
	int64_t got_sent;

	memset(into, 0, sizeof(*into));
	if (read_info(fd, &before) < 0)
		return -errno;
	into->state = before.tcpi_state;
	into->options = before.tcpi_options;
	into->send_window_scale = before.tcpi_snd_wscale;
	into->receive_window_scale = before.tcpi_rcv_wscale;
	into->received_ever_bytes = before.tcpi_bytes_received;
	into->has_urgent = poll(&poller, 1, 0) > 0 && (poller.revents & POLLPRI);
	into->received_bytes = waiting(fd, SIOCINQ);
	into->unacknowledged_bytes = waiting(fd, SIOCOUTQ);
	into->unsent_bytes = waiting(fd, SIOCOUTQNSD);
	if (into->received_bytes < 0 || into->unacknowledged_bytes < 0 || into->unsent_bytes < 0)
		return -EINVAL; /* no connection */
	if (get(fd, SOL_SOCKET, SO_PEEK_OFF) >= 0)
		return -EBUSY; /* to look at the queue would move it */
	if ((uint64_t)into->received_bytes + into->unacknowledged_bytes + PEEK_SLACK_BYTES > room)
		return -ENOBUFS;
	if (into->received_bytes > 0)
		got = recv(fd, queues, into->received_bytes, MSG_PEEK | MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	if (got != into->received_bytes)
		return -EAGAIN;
	got_sent = read_send_queue(fd, reuse, into, queues + got, room - got);
	if (got_sent < 0)
		return got_sent;
	/* A segment may have been on its way past the lock when that was made. */
	if (read_info(fd, &after) < 0 || after.tcpi_bytes_received != before.tcpi_bytes_received ||
	    after.tcpi_state != before.tcpi_state)
		return -EAGAIN;
	return got + got_sent;
}

int64_t pd_tcp_received_ever(int fd)
{
	struct tcp_info info;
	int failed = read_info(fd, &info);

	return failed < 0 ? failed : (int64_t)info.tcpi_bytes_received;
}
