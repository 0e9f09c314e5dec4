/*
 * A process that has one descriptor of each kind open, all with known values; what it cannot choose it tells.
 *
 * descriptors DIRECTORY [restorable]: for its files; they are gone with it. restorable: only what can come back, it has no
 * child, and it does not end with its parent.
 * Commands: info (-> ok NAME=FD ... and child=PID, which shares some of them), many N (-> ok: N more, of
 * deleted files), apart (-> ok TID: a thread with descriptors of its own), share (-> ok PID: a process with the same ones),
 * quit: checks that nothing has changed, which takes out of every queue what is in it; exit code 0 when all is as it was.
 */
#include "target.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>

#define MAX_NAMED 100
#define FULL_BYTES 65536

static struct {
	const char *name;
	int fd;
} named[MAX_NAMED];
static int n_named;
static pid_t child;
static char abstract_name[40];
static bool is_restorable;
static struct termios settings;

static int must(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

static int put(const char *name, int fd)
{
	named[n_named].name = name;
	named[n_named++].fd = must(fd, name);
	return fd;
}

static int fd_of(const char *name)
{
	for (int i = 0; i < n_named; i++)
		if (strcmp(named[i].name, name) == 0)
			return named[i].fd;
	errno = ENOENT;
	die(name);
}

static bool has(const char *name)
{
	for (int i = 0; i < n_named; i++)
		if (strcmp(named[i].name, name) == 0)
			return true;
	return false;
}

static void put_in(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("write");
}

static void set_option(int fd, int level, int option, int value)
{
	must(setsockopt(fd, level, option, &value, sizeof(value)), "setsockopt");
}

/* ---- what it has open ---- */

static void open_files(void)
{
	int fd = put("file", open("file", O_RDWR | O_CREAT | O_APPEND, 0640));

	put_in(fd, "0123456789012345678901234567890123456789012345678901234567890123456789");
	must((int)lseek(fd, 42, SEEK_SET), "lseek");
	put("file_dup", fcntl(fd, F_DUPFD_CLOEXEC, 0));
	put("file_other", open("file", O_RDONLY | O_CLOEXEC | O_NOATIME));
	must((int)lseek(fd_of("file_other"), 7, SEEK_SET), "lseek");
	put("path", open("file", O_PATH | O_CLOEXEC));
	put("directory", open(".", O_RDONLY | O_DIRECTORY));
	put("null", open("/dev/null", O_WRONLY));

	fd = put("deleted", open("deleted", O_RDWR | O_CREAT, 0600));
	put_in(fd, "bytes of a file without a name");
	must((int)lseek(fd, 5, SEEK_SET), "lseek");
	must(unlink("deleted"), "unlink");
	put("deleted_again", dup(fd));
	fd = put("temporary", open(".", O_RDWR | O_TMPFILE, 0600));
	put_in(fd, "bytes of O_TMPFILE");
	put("odd_name", open("odd (deleted)", O_RDWR | O_CREAT, 0600));
	fd = put("one_of_two", open("one", O_RDWR | O_CREAT, 0600));
	must(link("one", "two"), "link");
	must(unlink("one"), "unlink");

	fd = put("memfd", memfd_create("known", MFD_ALLOW_SEALING));
	put_in(fd, "bytes of a memfd");
	must(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "seals");
	put("namespace", open("/proc/self/ns/net", O_RDONLY));
	put("pidfd", (int)syscall(SYS_pidfd_open, getpid(), 0));
}

static void open_pipes(void)
{
	char block[FULL_BYTES];
	int ends[2];

	must(pipe2(ends, O_NONBLOCK), "pipe2");
	put("pipe_out", ends[0]);
	put("pipe_in", ends[1]);
	put_in(ends[1], "some bytes, ");
	put_in(ends[1], "and some more");

	must(pipe(ends), "pipe");
	put("full_out", ends[0]);
	put("full_in", ends[1]);
	for (int i = 0; i < FULL_BYTES; i++)
		block[i] = (char)(i * 7 + i / 256);
	if (write(ends[1], block, FULL_BYTES) != FULL_BYTES)
		die("write");

	must(pipe2(ends, O_DIRECT), "pipe2");
	put("packets_out", ends[0]);
	put("packets_in", ends[1]);
	put_in(ends[1], "a");
	put_in(ends[1], "packets");
	put_in(ends[1], "of bytes");

	if (!is_restorable) {
		must(pipe(ends), "pipe");
		put("lone_out", ends[0]); /* closed here once the child has it */
		put("lone_in", ends[1]);
		put_in(ends[1], "for the child");
	}

	must(pipe(ends), "pipe");
	put("unread_in", ends[1]);
	put_in(ends[1], "for nobody");
	must(close(ends[0]), "close");

	must(mkfifo("fifo", 0600), "mkfifo");
	put("fifo", open("fifo", O_RDWR | O_NONBLOCK));
	must(fcntl(fd_of("fifo"), F_SETPIPE_SZ, 8192), "F_SETPIPE_SZ");
	put_in(fd_of("fifo"), "fifo");
	if (is_restorable)
		return;
	must(mkfifo("unread_fifo", 0600), "mkfifo");
	ends[0] = must(open("unread_fifo", O_RDONLY | O_NONBLOCK), "open");
	put("unread_fifo", open("unread_fifo", O_WRONLY));
	put_in(fd_of("unread_fifo"), "for nobody yet");
	must(close(ends[0]), "close");
}

static void open_terminals(void)
{
	struct winsize window = {.ws_row = 33, .ws_col = 101};
	int master = put("master", open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
	int slave;

	must(grantpt(master), "grantpt");
	must(unlockpt(master), "unlockpt");
	slave = put("slave", open(ptsname(master), O_RDWR | O_NOCTTY));
	must(tcgetattr(slave, &settings), "tcgetattr");
	settings.c_lflag &= (tcflag_t) ~(ECHO | ICANON);
	settings.c_cc[VMIN] = 3;
	must(tcsetattr(slave, TCSANOW, &settings), "tcsetattr");
	must(tcgetattr(slave, &settings), "tcgetattr");
	must(ioctl(slave, TIOCSWINSZ, &window), "TIOCSWINSZ");
}

static void open_events(void)
{
	struct epoll_event watch = {.events = EPOLLIN | EPOLLET, .data.u64 = 0xfedcba9876543210};
	struct itimerspec often = {.it_value = {1000, 5}, .it_interval = {3, 7}};
	struct itimerspec once = {.it_value = {4000000000, 9}};
	struct itimerspec over = {.it_value = {0, 1000}, .it_interval = {100000, 0}};
	struct pollfd poller;
	sigset_t set;
	int fd;

	put("eventfd", eventfd(7, 0));
	put("semaphore", eventfd(0x123, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK));

	fd = put("epoll", epoll_create1(EPOLL_CLOEXEC));
	must(epoll_ctl(fd, EPOLL_CTL_ADD, fd_of("pipe_out"), &watch), "epoll_ctl");
	watch = (struct epoll_event){.events = EPOLLOUT | EPOLLONESHOT, .data.fd = 77};
	must(epoll_ctl(fd, EPOLL_CTL_ADD, fd_of("semaphore"), &watch), "epoll_ctl");
	if (!is_restorable) {
		fd = put("strange_epoll", epoll_create1(0)); /* watches a pipe by a number that is closed */
		must(epoll_ctl(fd, EPOLL_CTL_ADD, dup2(fd_of("pipe_out"), 200), &watch), "epoll_ctl");
		must(close(200), "close");
	}

	fd = put("timer", timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	must(timerfd_settime(fd, 0, &often, NULL), "timerfd_settime");
	fd = put("timer_absolute", timerfd_create(CLOCK_REALTIME, 0));
	must(timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &once, NULL), "timerfd_settime");
	fd = put("timer_over", timerfd_create(CLOCK_BOOTTIME, 0));
	must(timerfd_settime(fd, 0, &over, NULL), "timerfd_settime");
	poller = (struct pollfd){.fd = fd, .events = POLLIN};
	must(poll(&poller, 1, -1), "poll");

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, 37);
	put("signalfd", signalfd(-1, &set, 0));
}

/* ---- sockets ---- */

static void make_pair(int type, const char *first, const char *second)
{
	int ends[2];

	must(socketpair(AF_UNIX, type, 0, ends), "socketpair");
	put(first, ends[0]);
	put(second, ends[1]);
}

static void pass_descriptor(int fd, int passed)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'x';
	struct iovec piece = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &passed, sizeof(int));
	must((int)sendmsg(fd, &message, 0), "sendmsg");
}

static int listen_unix(const char *name, const char *path, size_t n_bytes, int backlog)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = put(name, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

	memcpy(address.sun_path, path, n_bytes);
	must(bind(fd, (struct sockaddr *)&address, (socklen_t)(sizeof(sa_family_t) + n_bytes)), "bind");
	must(listen(fd, backlog), "listen");
	return fd;
}

static void connect_to(int fd, int listener)
{
	struct sockaddr_storage address;
	socklen_t n_bytes = sizeof(address);

	must(getsockname(listener, (struct sockaddr *)&address, &n_bytes), "getsockname");
	must(connect(fd, (struct sockaddr *)&address, n_bytes), "connect");
}

static void open_unix_sockets(void)
{
	struct timeval timeout = {.tv_sec = 3, .tv_usec = 250000};

	make_pair(SOCK_STREAM, "stream", "stream_peer");
	put_in(fd_of("stream_peer"), "bytes of ");
	put_in(fd_of("stream_peer"), "a stream");
	set_option(fd_of("stream"), SOL_SOCKET, SO_RCVLOWAT, 4);
	must(setsockopt(fd_of("stream"), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), "SO_RCVTIMEO");
	must(fcntl(fd_of("stream"), F_SETOWN, getpid()), "F_SETOWN");
	must(fcntl(fd_of("stream"), F_SETSIG, 44), "F_SETSIG");
	must(shutdown(fd_of("stream"), SHUT_WR), "shutdown");

	make_pair(SOCK_STREAM, "credentials", "credentials_peer");
	set_option(fd_of("credentials"), SOL_SOCKET, SO_PASSCRED, 1);
	put_in(fd_of("credentials_peer"), "with credentials");
	make_pair(SOCK_SEQPACKET, "packet", "packet_peer");
	put_in(fd_of("packet_peer"), "one message, whole");
	make_pair(SOCK_DGRAM, "datagram", "datagram_peer");
	put_in(fd_of("datagram_peer"), "a datagram");

	listen_unix("listener", "socket", sizeof("socket"), 5);
	snprintf(abstract_name, sizeof(abstract_name), "%cpredump-test-%d", 0, getpid());
	listen_unix("abstract", abstract_name, 1 + strlen(abstract_name + 1), 9);
	put("waiting", socket(AF_UNIX, SOCK_STREAM, 0));
	connect_to(fd_of("waiting"), fd_of("abstract"));
}

/* Unix sockets with something that cannot be seen without being taken out. */
static void open_queues(void)
{
	make_pair(SOCK_STREAM, "passing", "passing_peer");
	pass_descriptor(fd_of("passing_peer"), fd_of("null"));
	make_pair(SOCK_STREAM, "peeking", "peeking_peer");
	set_option(fd_of("peeking"), SOL_SOCKET, SO_PEEK_OFF, 2);
	put_in(fd_of("peeking_peer"), "peeked");
	make_pair(SOCK_SEQPACKET, "packets", "packets_peer");
	put_in(fd_of("packets_peer"), "first");
	put_in(fd_of("packets_peer"), "second");
	make_pair(SOCK_DGRAM, "datagrams", "datagrams_peer");
	put_in(fd_of("datagrams_peer"), "first");
	must((int)send(fd_of("datagrams_peer"), "", 0, 0), "send");
}

static void open_inet_sockets(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 address6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = put("tcp", socket(AF_INET, SOCK_STREAM, 0));

	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	must(bind(fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	must(listen(fd, 17), "listen");
	fd = put("tcp6", socket(AF_INET6, SOCK_STREAM, 0));
	set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	must(bind(fd, (struct sockaddr *)&address6, sizeof(address6)), "bind");
	must(listen(fd, 3), "listen");

	fd = put("udp", socket(AF_INET, SOCK_DGRAM, 0));
	set_option(fd, SOL_SOCKET, SO_BROADCAST, 1);
	must(bind(fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	fd = put("udp_full", socket(AF_INET, SOCK_DGRAM, 0));
	must(bind(fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	connect_to(fd_of("udp"), fd);
}

static void open_connections(void)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 6};

	put("client", socket(AF_INET, SOCK_STREAM, 0));
	connect_to(fd_of("client"), fd_of("tcp"));
	put("server", accept4(fd_of("tcp"), NULL, NULL, SOCK_NONBLOCK));
	set_option(fd_of("client"), IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd_of("client"), IPPROTO_TCP, TCP_KEEPIDLE, 123);
	must(setsockopt(fd_of("client"), SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), "SO_LINGER");
	put_in(fd_of("client"), "by tcp");
	put("caller6", socket(AF_INET6, SOCK_STREAM, 0));
	connect_to(fd_of("caller6"), fd_of("tcp6"));
	put_in(fd_of("udp"), "by udp");
}

/* ---- locks, and what else there is ---- */

static void lock_files(void)
{
	struct flock lock = {.l_type = F_WRLCK, .l_start = 10, .l_len = 10};
	int fd = put("flocked", open("flocked", O_RDWR | O_CREAT, 0600));

	must(flock(fd, LOCK_EX), "flock");
	fd = put("posix", open("posix", O_RDWR | O_CREAT, 0600));
	must(fcntl(fd, F_SETLK, &lock), "F_SETLK");
	put("posix_dup", dup(fd));
	fd = put("ofd", open("ofd", O_RDWR | O_CREAT, 0600));
	lock = (struct flock){.l_type = F_RDLCK, .l_start = 5};
	must(fcntl(fd, F_OFD_SETLK, &lock), "F_OFD_SETLK");
	must(close(open("leased", O_RDWR | O_CREAT, 0600)), "close");
	fd = put("leased", open("leased", O_RDONLY));
	must(fcntl(fd, F_SETLEASE, F_RDLCK), "F_SETLEASE");
	must(fcntl(fd, F_SETSIG, 45), "F_SETSIG");
}

static void open_others(void)
{
	struct io_uring_params parameters = {0};
	int fd = is_restorable ? -1 : (int)syscall(SYS_io_uring_setup, 4, &parameters);

	if (fd >= 0)
		put("io_uring", fd);
	fd = put("inotify", inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	must(inotify_add_watch(fd, "file", IN_MODIFY | IN_ATTRIB), "inotify_add_watch");
	must(inotify_add_watch(fd, ".", IN_DELETE), "inotify_add_watch");
	if (!is_restorable) {
		fd = put("inotify_unread", inotify_init1(0));
		must(inotify_add_watch(fd, ".", IN_CREATE), "inotify_add_watch");
	}
	put("created", open("created", O_RDWR | O_CREAT, 0600));
}

/* Until a descriptor of the child is closed there. */
static void wait_for_close(int fd)
{
	const struct timespec pause_time = timespec_of_ns(NS_PER_MS);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", child, fd);
	for (int i = 0; faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0; i++) {
		if (i > 10000) {
			errno = ETIMEDOUT;
			die("waiting for the child");
		}
		nanosleep(&pause_time, NULL);
	}
}

static void make_child(void)
{
	child = must(fork(), "fork");
	if (child == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
			_exit(1);
		must(close(fd_of("file_other")), "close");
		for (;;)
			pause();
	}
	wait_for_close(fd_of("file_other"));
	must(close(fd_of("lone_out")), "close");
}

/* ---- as it was ---- */

static bool is_clean = true;

static void expect(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "changed: %s\n", what);
	is_clean = false;
}

static void expect_bytes(const char *name, const char *want, size_t n_bytes)
{
	static char got[FULL_BYTES];
	int fd;

	if (is_restorable && !has(name))
		return;
	fd = fd_of(name);
	must(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), "F_SETFL");
	expect(read(fd, got, sizeof(got)) == (ssize_t)n_bytes && memcmp(got, want, n_bytes) == 0, name);
}

static void expect_text(const char *name, const char *want)
{
	expect_bytes(name, want, strlen(want));
}

static uint64_t number_in(const char *name)
{
	uint64_t number = 0;

	if (read(fd_of(name), &number, sizeof(number)) != sizeof(number))
		return UINT64_MAX;
	return number;
}

static void check_files(void)
{
	expect(lseek(fd_of("file"), 0, SEEK_CUR) == 42, "offset of file");
	expect(lseek(fd_of("file_other"), 0, SEEK_CUR) == 7, "offset of file_other");
	expect(lseek(fd_of("deleted"), 0, SEEK_CUR) == 5, "offset of deleted");
	expect(lseek(fd_of("memfd"), 0, SEEK_CUR) == 16, "offset of memfd");
	expect(fcntl(fd_of("file"), F_GETFL) == (O_RDWR | O_APPEND | 0100000), "flags of file");
	expect(fcntl(fd_of("pipe_out"), F_GETFL) == (O_RDONLY | O_NONBLOCK), "flags of pipe_out");
	expect(fcntl(fd_of("full_out"), F_GETFL) == O_RDONLY, "flags of full_out");
	expect(fcntl(fd_of("stream"), F_GETFL) == O_RDWR, "flags of stream");
	expect(fcntl(fd_of("flocked"), F_GETFD) == 0, "flags of the descriptor flocked");
	expect(fcntl(fd_of("file_dup"), F_GETFD) == FD_CLOEXEC, "flags of the descriptor file_dup");
	expect(fcntl(fd_of("leased"), F_GETLEASE) == F_RDLCK, "the lease");
	expect(fcntl(fd_of("fifo"), F_GETPIPE_SZ) == 8192, "the size of fifo");
	expect_text("deleted", " of a file without a name");
}

static void check_pipes(void)
{
	char block[FULL_BYTES];

	expect_text("pipe_out", "some bytes, and some more");
	for (int i = 0; i < FULL_BYTES; i++)
		block[i] = (char)(i * 7 + i / 256);
	expect_bytes("full_out", block, sizeof(block));
	expect_text("packets_out", "a");
	expect_text("packets_out", "packets");
	expect_text("packets_out", "of bytes");
	expect_text("fifo", "fifo");
	signal(SIGPIPE, SIG_IGN);
	expect(write(fd_of("unread_in"), "x", 1) < 0 && errno == EPIPE, "the end of unread_in");
	expect(is_restorable || (write(fd_of("unread_fifo"), "x", 1) < 0 && errno == EPIPE), "the end of unread_fifo");
}

static void check_sockets(void)
{
	int value = 0, listening;
	socklen_t bytes = sizeof(value);

	expect_text("stream", "bytes of a stream");
	expect_text("credentials", "with credentials");
	expect_text("passing", "x");
	if (!is_restorable) {
		must(getsockopt(fd_of("peeking"), SOL_SOCKET, SO_PEEK_OFF, &value, &bytes), "SO_PEEK_OFF");
		expect(value == 2, "SO_PEEK_OFF of peeking");
	}
	must(getsockopt(fd_of("stream"), SOL_SOCKET, SO_PEEK_OFF, &value, &bytes), "SO_PEEK_OFF");
	expect(value == -1, "SO_PEEK_OFF of stream");
	expect_text("packet", "one message, whole");
	expect_text("packets", "first");
	expect_text("packets", "second");
	expect_text("datagram", "a datagram");
	expect_text("datagrams", "first");
	expect_text("datagrams", "");
	expect_text("server", "by tcp");
	if (!is_restorable)
		expect_text("udp_full", "by udp");
	listening = accept(fd_of("abstract"), NULL, NULL);
	expect(listening >= 0, "the connection that waits");
}

static void check_events(void)
{
	struct itimerspec left;
	struct termios now;
	struct pollfd poller = {.fd = fd_of("epoll"), .events = POLLIN};
	struct epoll_event events[4];

	expect(poll(&poller, 1, 0) == 1 && epoll_wait(fd_of("epoll"), events, 4, 0) == 2, "what epoll reports");
	expect(number_in("eventfd") == 7, "eventfd");
	expect(number_in("semaphore") == 1, "semaphore");
	expect(number_in("timer_over") == 1, "timer_over");
	must(timerfd_gettime(fd_of("timer"), &left), "timerfd_gettime");
	expect(left.it_interval.tv_sec == 3 && left.it_value.tv_sec > 0, "timer");
	must(tcgetattr(fd_of("slave"), &now), "tcgetattr");
	expect(memcmp(&now, &settings, sizeof(now)) == 0, "settings of the terminal");
	expect(read(fd_of("inotify"), events, 1) < 0 && errno == EAGAIN, "events of inotify");
}

static void open_many(unsigned long n)
{
	struct rlimit limit;

	must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
	limit.rlim_cur = limit.rlim_max;
	must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	for (unsigned long i = 0; i < n; i++)
		must(open(".", O_RDWR | O_TMPFILE, 0600), "O_TMPFILE");
}

/* ---- tables of descriptors ---- */

static volatile pid_t apart;

static void *live_apart(void *nothing)
{
	if (unshare(CLONE_FILES) < 0)
		die("unshare");
	apart = gettid();
	for (;;)
		pause();
	return nothing;
}

static void make_thread_apart(void)
{
	pthread_t thread;

	if ((errno = pthread_create(&thread, NULL, live_apart, NULL)) != 0)
		die("pthread_create");
	while (apart == 0)
		usleep(1000);
	answer("ok %d", apart);
}

static void make_process_that_shares(void)
{
	long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

	if (pid < 0)
		die("clone");
	if (pid == 0) {
		syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			syscall(SYS_pause);
	}
	answer("ok %ld", pid);
}

static void tell(void)
{
	printf("ok child=%d", child);
	for (int i = 0; i < n_named; i++)
		if (strcmp(named[i].name, "lone_out") != 0)
			printf(" %s=%d", named[i].name, named[i].fd);
	answer(" ."); /* the end of the line */
}

int main(int argc, char **argv)
{
	char line[256];
	unsigned long n;

	is_restorable = argc == 3 && strcmp(argv[2], "restorable") == 0;
	if (argc != 2 + is_restorable || chdir(argv[1]) < 0) {
		fprintf(stderr, "usage: descriptors DIRECTORY [restorable]\n");
		return 2;
	}
	if (!is_restorable)
		die_with_parent();
	open_files();
	open_pipes();
	open_terminals();
	open_events();
	open_unix_sockets();
	open_inet_sockets();
	if (!is_restorable) {
		open_queues();
		open_connections();
		make_child();
	}
	lock_files();
	open_others();
	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "info") == 0)
			tell();
		else if (sscanf(line, "many %lu", &n) == 1) {
			open_many(n);
			answer("ok");
		} else if (strcmp(line, "apart") == 0)
			make_thread_apart();
		else if (strcmp(line, "share") == 0)
			make_process_that_shares();
		else if (strcmp(line, "quit") == 0) {
			check_files();
			check_events();
			check_pipes();
			check_sockets();
			answer(is_clean ? "ok" : "bad something has changed");
			return is_clean ? 0 : 1;
		} else
			answer("bad unknown command '%s'", line);
	}
	return 1;
}
