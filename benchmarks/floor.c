/* The floor of fan-out: what it costs to hand the kernel one frame for each of many sockets, and nothing besides.
 *
 *     floor SOCKETS
 *
 * Its standard input brings blocks: four bytes of size, big-endian, then as many bytes. The first block is what every
 * device is greeted with. It prints the port that it listens on, lets so many devices in, and then sends each further
 * block to all of them, in turn. It ends with its input.
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, HEAD = 8192, LARGEST = 1 << 20 };

/* The answer to the one key that the load generator ever sends. */
static const char UPGRADED[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: atlas-sync.v1.msgpack\r\n\r\n";

static char block[LARGEST];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Fill `into`, or end when the input does. */
static void take(char *into, size_t size) {
    while (size > 0) {
        ssize_t got = read(STDIN_FILENO, into, size);
        if (got < 0) fail("floor: read");
        if (got == 0) exit(0);
        into += got;
        size -= (size_t)got;
    }
}

/* The next block of the input; returns its size. */
static size_t next(void) {
    uint32_t size;
    take((char *)&size, sizeof size);
    size = ntohl(size);
    if (size > LARGEST) {
        fprintf(stderr, "floor: a block of %u bytes\n", size);
        exit(1);
    }
    take(block, size);
    return size;
}

/* The sockets block: one that is full is waited for, and nothing is lost. */
static void say(int sock, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t sent = send(sock, bytes, size, 0);
        if (sent < 0) fail("floor: send");
        bytes += sent;
        size -= (size_t)sent;
    }
}

/* One device: upgraded, and greeted once it has said hello, whatever it said. */
static int let_in(int listener, size_t greeting) {
    static char head[HEAD + 1];
    size_t size = 0;
    int one = 1, sock = accept(listener, NULL, NULL);
    if (sock < 0) fail("floor: accept");
    /* As servers do, or the kernel would hold small frames back and send several as one. */
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    do {
        ssize_t got = recv(sock, head + size, HEAD - size, 0);
        if (got <= 0) fail("floor: a device left");
        head[size += (size_t)got] = '\0';
    } while (!strstr(head, "\r\n\r\n"));
    say(sock, UPGRADED, sizeof UPGRADED - 1);
    if (recv(sock, head, HEAD, 0) <= 0) fail("floor: a device left");
    say(sock, block, greeting);
    return sock;
}

int main(int count, char **given) {
    int sockets = count == 2 ? atoi(given[1]) : 0;
    int *socks = calloc((size_t)(sockets > 0 ? sockets : 1), sizeof *socks);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    size_t greeting = next();

    if (sockets < 1 || !socks) {
        fprintf(stderr, "usage: floor SOCKETS\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (listener < 0 || bind(listener, (struct sockaddr *)&here, size) || listen(listener, BACKLOG)) fail("floor: listen");
    if (getsockname(listener, (struct sockaddr *)&here, &size)) fail("floor: getsockname");
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);

    for (int i = 0; i < sockets; i++) socks[i] = let_in(listener, greeting);
    for (;;) {
        size_t frame = next();
        for (int i = 0; i < sockets; i++) say(socks[i], block, frame);
    }
}
