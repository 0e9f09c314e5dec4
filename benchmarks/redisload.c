/* A client of redis-server that writes at a steady rate: redisload OWN_ADDRESS ADDRESS PORT VALUES VALUE_BYTES
 *
 * Over one connection it sets one value after the other, at random, each to the number of its write and random bytes.
 * It does not wait for answers. When its connection ends, or none comes for 10 ms, it makes another one at once, and what
 * was not answered by then is forgotten: it may or may not have been done.
 * Commands:
 *	fill	sets all values; `ok`
 *	rate N	writes N times in a second from now on, or not at all (0), once all is answered; `ok`
 *	count	`ok WRITES`, how many were answered
 *	gap	`ok NS`: the longest time without an answer since this was asked last
 *	check	at rate 0: `ok LOST`, how many values are older than the last write of them that was answered
 */
#include "../tests/targets/target.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define NUMBER_BYTES 16
#define MAX_VALUE_BYTES 65536
#define MAX_UNANSWERED 4096
#define MAX_UNSENT_BYTES (1 << 20)
#define PATIENCE_MS 10 /* the kernel's own next try is after 200 ms and more */
#define FILL_AT_ONCE 256
#define GET_AT_ONCE 1024

static const char OK[] = "+OK\r\n";
#define OK_BYTES (sizeof(OK) - 1)

static struct sockaddr_in own, server;
static size_t n_values, value_bytes;
static uint64_t *answered; /* of each value, the number of the last write that was answered */
static uint64_t state = 1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static uint64_t rate, n_answered, answered_ns, gap_ns;
static size_t n_unanswered;

/* The writer's own. */
static int connection = -1;
static struct {
	size_t value;
	uint64_t number;
} unanswered[MAX_UNANSWERED]; /* a ring */
static size_t oldest, n_ok_bytes;
static uint64_t number, heard_ns; /* heard_ns: of an answer, or of its connection */
static char unsent[MAX_UNSENT_BYTES];
static size_t n_unsent;

static struct sockaddr_in address_of(const char *host, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		die("inet_pton");
	return address;
}

/* A connection, or -1 with errno. */
static int connect_to_server(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0, on = 1;
	socklen_t size = sizeof(error);

	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		die("bind");
	if (connect(fd, (struct sockaddr *)&server, sizeof(server)) < 0) {
		struct pollfd connecting = {.fd = fd, .events = POLLOUT};

		if (errno == EINPROGRESS && poll(&connecting, 1, PATIENCE_MS) == 1)
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
		else
			error = ETIMEDOUT;
	}
	if (error == 0)
		return fd;
	close(fd);
	errno = error;
	return -1;
}

/* SET of a value to the number of the write and random bytes; its size. */
static size_t put_write(char *out, size_t value, uint64_t of_number)
{
	int n = sprintf(out, "*3\r\n$3\r\nSET\r\n$10\r\nv%09zu\r\n$%zu\r\n%016lu", value, value_bytes,
			(unsigned long)of_number);
	char *rest = out + n;

	for (size_t i = NUMBER_BYTES; i < value_bytes; i += sizeof(uint64_t)) {
		uint64_t random = next_random(&state);
		size_t left = value_bytes - i;

		memcpy(rest, &random, left < sizeof(random) ? left : sizeof(random));
		rest += left < sizeof(random) ? left : sizeof(random);
	}
	memcpy(rest, "\r\n", 2);
	return (size_t)(rest + 2 - out);
}

/* With the lock. */
static void note_gap(void)
{
	uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

	if (rate && now_ns - answered_ns > gap_ns)
		gap_ns = now_ns - answered_ns;
}

/* ---- the writer ---- */

static void lose_connection(void)
{
	close(connection);
	connection = -1;
	n_unsent = n_ok_bytes = 0;
	pthread_mutex_lock(&lock);
	oldest = (oldest + n_unanswered) % MAX_UNANSWERED;
	n_unanswered = 0;
	pthread_mutex_unlock(&lock);
}

static void add_write(void)
{
	size_t value = (size_t)(next_random(&state) % n_values);

	pthread_mutex_lock(&lock);
	if (n_unanswered < MAX_UNANSWERED && n_unsent + MAX_VALUE_BYTES + 128 <= MAX_UNSENT_BYTES) {
		size_t at = (oldest + n_unanswered++) % MAX_UNANSWERED;

		unanswered[at].value = value;
		unanswered[at].number = ++number;
		n_unsent += put_write(unsent + n_unsent, value, number);
	}
	pthread_mutex_unlock(&lock);
}

static bool is_broken(ssize_t n)
{
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static bool send_writes(void)
{
	ssize_t n = n_unsent ? send(connection, unsent, n_unsent, MSG_NOSIGNAL) : -2;

	if (n == -2)
		return true;
	if (is_broken(n))
		return false;
	if (n > 0) {
		n_unsent -= (size_t)n;
		memmove(unsent, unsent + n, n_unsent);
	}
	return true;
}

static bool take_answers(void)
{
	char answers[4096];
	ssize_t n = recv(connection, answers, sizeof(answers), 0);

	if (is_broken(n))
		return false;
	pthread_mutex_lock(&lock);
	for (ssize_t i = 0; i < n; i++) {
		if (answers[i] != OK[n_ok_bytes]) {
			printf("bad answer: %.*s\n", (int)(n - i), answers + i);
			exit(1);
		}
		if (++n_ok_bytes < OK_BYTES)
			continue;
		n_ok_bytes = 0;
		answered[unanswered[oldest].value] = unanswered[oldest].number;
		oldest = (oldest + 1) % MAX_UNANSWERED;
		n_unanswered--;
		n_answered++;
	}
	heard_ns = clock_ns(CLOCK_MONOTONIC);
	if (n >= (ssize_t)OK_BYTES) {
		note_gap();
		answered_ns = heard_ns;
	}
	pthread_mutex_unlock(&lock);
	return true;
}

static void *write_values(void *unused)
{
	uint64_t due_ns = 0;

	for (;;) {
		pthread_mutex_lock(&lock);
		uint64_t interval_ns = rate ? NS_PER_S / rate : 0;
		bool is_waiting = n_unanswered > 0;

		pthread_mutex_unlock(&lock);
		if (connection < 0) {
			connection = connect_to_server();
			heard_ns = clock_ns(CLOCK_MONOTONIC);
			if (connection < 0) {
				usleep(200);
				continue;
			}
		}
		uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

		if (!is_waiting)
			heard_ns = now_ns;
		if (due_ns + NS_PER_S < now_ns) /* it begins, or nobody gave it time */
			due_ns = now_ns;
		for (; interval_ns && due_ns <= now_ns; due_ns += interval_ns)
			add_write();
		struct pollfd looked_at = {.fd = connection, .events = (short)(POLLIN | (n_unsent ? POLLOUT : 0))};
		struct timespec left = timespec_of_ns(interval_ns ? due_ns - now_ns : NS_PER_MS);

		if (!send_writes() || ppoll(&looked_at, 1, &left, NULL) < 0 ||
		    (looked_at.revents & ~POLLOUT && !take_answers()) ||
		    clock_ns(CLOCK_MONOTONIC) - heard_ns > PATIENCE_MS * NS_PER_MS)
			lose_connection();
	}
	return unused;
}

/* ---- commands ---- */

static void send_all(int fd, const char *content, size_t n_bytes)
{
	while (n_bytes) {
		ssize_t n = send(fd, content, n_bytes, MSG_NOSIGNAL);

		if (n < 0)
			die("send");
		content += n;
		n_bytes -= (size_t)n;
	}
}

static FILE *blocking_connection(void)
{
	int fd = connect_to_server();

	if (fd < 0 || fcntl(fd, F_SETFL, 0) < 0)
		die("connect");
	return fdopen(fd, "r");
}

static void fill(void)
{
	FILE *file = blocking_connection();
	char *requests = malloc(FILL_AT_ONCE * (value_bytes + 128)), line[64];

	for (size_t start = 0; start < n_values; start += FILL_AT_ONCE) {
		size_t n = n_values - start < FILL_AT_ONCE ? n_values - start : FILL_AT_ONCE, n_bytes = 0;

		for (size_t i = 0; i < n; i++)
			n_bytes += put_write(requests + n_bytes, start + i, 0);
		send_all(fileno(file), requests, n_bytes);
		for (size_t i = 0; i < n; i++)
			if (!fgets(line, sizeof(line), file) || strcmp(line, OK) != 0)
				die("SET");
	}
	free(requests);
	fclose(file);
}

/* The number in a value; 0 if there is none. */
static uint64_t number_in(FILE *file)
{
	char line[64];

	if (!fgets(line, sizeof(line), file) || line[0] != '$' || !fgets(line, sizeof(line), file))
		die("GETRANGE");
	return strtoul(line, NULL, 10);
}

static size_t count_lost(void)
{
	FILE *file = blocking_connection();
	char *requests = malloc(GET_AT_ONCE * 128);
	size_t lost = 0;

	for (size_t start = 0; start < n_values; start += GET_AT_ONCE) {
		size_t end = start + GET_AT_ONCE < n_values ? start + GET_AT_ONCE : n_values, n_bytes = 0;

		for (size_t i = start; i < end; i++)
			if (answered[i])
				n_bytes += (size_t)sprintf(requests + n_bytes, "GETRANGE v%09zu 0 %d\r\n", i,
							   NUMBER_BYTES - 1);
		send_all(fileno(file), requests, n_bytes);
		for (size_t i = start; i < end; i++)
			if (answered[i] && number_in(file) < answered[i])
				lost++;
	}
	free(requests);
	fclose(file);
	return lost;
}

static void set_rate(uint64_t to)
{
	pthread_mutex_lock(&lock);
	rate = to;
	answered_ns = clock_ns(CLOCK_MONOTONIC);
	gap_ns = 0;
	while (to == 0 && n_unanswered) {
		pthread_mutex_unlock(&lock);
		usleep(1000);
		pthread_mutex_lock(&lock);
	}
	pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
	pthread_t writer;
	char line[64];

	if (argc != 6) {
		fprintf(stderr, "usage: redisload OWN_ADDRESS ADDRESS PORT VALUES VALUE_BYTES\n");
		return 2;
	}
	die_with_parent();
	own = address_of(argv[1], "0");
	server = address_of(argv[2], argv[3]);
	n_values = strtoul(argv[4], NULL, 10);
	value_bytes = strtoul(argv[5], NULL, 10);
	if (n_values == 0 || value_bytes < NUMBER_BYTES || value_bytes > MAX_VALUE_BYTES)
		die("sizes");
	answered = calloc(n_values, sizeof(*answered));
	answer("ready");
	bool is_writing = false;

	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "fill") == 0) {
			fill();
			answer("ok");
		} else if (strncmp(line, "rate ", 5) == 0) {
			set_rate(strtoul(line + 5, NULL, 10));
			if (!is_writing && (errno = pthread_create(&writer, NULL, write_values, NULL)) != 0)
				die("pthread_create");
			is_writing = true;
			answer("ok");
		} else if (strcmp(line, "gap") == 0) {
			pthread_mutex_lock(&lock);
			note_gap();
			answer("ok %lu", (unsigned long)gap_ns);
			gap_ns = 0;
			pthread_mutex_unlock(&lock);
		} else if (strcmp(line, "count") == 0) {
			pthread_mutex_lock(&lock);
			answer("ok %lu", (unsigned long)n_answered);
			pthread_mutex_unlock(&lock);
		} else if (strcmp(line, "check") == 0) {
			answer("ok %zu", count_lost());
		} else {
			die("unknown command");
		}
	}
	return 0;
}
