/* The load client of `peers`: a WebSocket for each device, whatever protocol is spoken over it.
 *
 *     load PORT SCRIPT ARRIVALS
 *
 * Each device opens its socket and plays its part of SCRIPT: it sends frames and waits for frames that contain certain
 * bytes. It prints `ready` once all have done so, and then how many changes have arrived, ten times a second. A change
 * has a marker in its text, ~# and ten digits, and is recognised by that alone. When its standard input ends it writes
 * {uint64 microseconds since 1970, uint32 device, uint32 digits} of each to ARRIVALS. It ends with an error if a device
 * is disconnected.
 *
 * SCRIPT, little-endian: uint32 replies, each {text prefix, uint8 opcode, text answer}, sent whenever a frame begins so;
 * uint32 devices, each {text path, text headers, uint32 steps, each {uint8 opcode or 0, text sent, text expected}};
 * a text is {uint32 size, bytes}.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "load"
#include "script.h"

enum { AT_ONCE = 256, EVENTS = 1024, CHUNK = 1 << 18, LARGEST = 1 << 16, MARKER = 12, TOLD_US = 100000 };
enum { CLOSE = 8, PING = 9, PONG = 10 };
enum State { WAITING, CONNECTING, UPGRADING, PLAYING, READY };

typedef struct {
    Text prefix, answer;
    uint8_t opcode;
} Reply;

typedef struct {
    Text sent, expected;
    uint8_t opcode;
} Step;

typedef struct {
    enum State state;
    int socket;
    Text path, headers;
    Step *steps;
    uint32_t step, count;
    char *rest; /* an incomplete frame */
    size_t kept, room;
} Device;

typedef struct {
    uint64_t at;
    uint32_t device, change;
} Arrival;

static Reply *replies;
static Device *devices;
static uint32_t reply_count, device_count, opened, ready;
static Arrival *arrivals;
static size_t arrived, room;
static int poller, port;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec * UINT64_C(1000000) + time.tv_nsec / 1000;
}

static void read_script(const char *path) {
    open_script(path);
    reply_count = take_number();
    replies = grown(NULL, (reply_count + 1) * sizeof *replies);
    for (uint32_t i = 0; i < reply_count; i++) {
        replies[i].prefix = take_text();
        replies[i].opcode = take_byte();
        replies[i].answer = take_text();
    }
    device_count = take_number();
    devices = grown(NULL, device_count * sizeof *devices);
    memset(devices, 0, device_count * sizeof *devices);
    for (Device *device = devices; device < devices + device_count; device++) {
        device->path = take_text();
        device->headers = take_text();
        device->count = take_number();
        device->steps = grown(NULL, (device->count + 1) * sizeof *device->steps);
        for (uint32_t i = 0; i < device->count; i++) {
            device->steps[i].opcode = take_byte();
            device->steps[i].sent = take_text();
            device->steps[i].expected = take_text();
        }
    }
}

static void open_more(void) {
    while (opened < device_count && opened - ready < AT_ONCE) {
        Device *device = &devices[opened++];
        device->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (device->socket < 0) fail("socket");
        int on = 1;
        setsockopt(device->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
        server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (connect(device->socket, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) fail("connect");
        device->state = CONNECTING;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = device};
        epoll_ctl(poller, EPOLL_CTL_ADD, device->socket, &event);
    }
}

static void upgrade(Device *device) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(device->socket, SOL_SOCKET, SO_ERROR, &error, &size);
    if ((errno = error) != 0) fail("connect");
    char request[LARGEST];
    int length = snprintf(request, sizeof request,
                          "GET %.*s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%.*s\r\n",
                          (int)device->path.size, device->path.bytes, port, (int)device->headers.size,
                          device->headers.bytes);
    if (send(device->socket, request, length, MSG_NOSIGNAL) != length) fail("the request was not sent");
    device->state = UPGRADING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = device};
    epoll_ctl(poller, EPOLL_CTL_MOD, device->socket, &event);
}

/* A mask of zeros: masking is not measured. */
static void send_frame(Device *device, uint8_t opcode, const char *payload, size_t size) {
    static char frame[LARGEST + 8];
    if (size > LARGEST - 1) fail("a frame is too large");
    size_t head = 2;
    frame[0] = (char)(0x80 | opcode);
    frame[1] = (char)(0x80 | (size < 126 ? size : 126));
    if (size >= 126) {
        frame[head++] = (char)(size >> 8);
        frame[head++] = (char)size;
    }
    memset(frame + head, 0, 4);
    memcpy(frame + head + 4, payload, size);
    size += head + 4;
    if (send(device->socket, frame, size, MSG_NOSIGNAL) != (ssize_t)size) fail("a frame was not sent");
}

/* Go on until a frame must be waited for. */
static void play(Device *device) {
    for (; device->step < device->count; device->step++) {
        Step *step = &device->steps[device->step];
        if (step->opcode != 0) send_frame(device, step->opcode, step->sent.bytes, step->sent.size);
        step->opcode = 0;
        if (step->expected.size > 0) return;
    }
    device->state = READY;
    if (++ready == device_count) {
        puts("ready");
        fflush(stdout);
    }
    open_more();
}

static void find_changes(Device *device, const char *payload, size_t size, uint64_t at) {
    const char *end = payload + size, *marker = payload;
    while ((marker = memmem(marker, end - marker, "~#", 2)) != NULL && end - marker >= MARKER) {
        uint32_t change = 0;
        for (int i = 2; i < MARKER; i++) change = change * 10 + (marker[i] - '0');
        if (arrived == room) arrivals = grown(arrivals, (room = room ? 2 * room : 1 << 16) * sizeof *arrivals);
        arrivals[arrived++] = (Arrival){at, (uint32_t)(device - devices), change};
        marker += MARKER;
    }
}

static void receive_frame(Device *device, int opcode, const char *payload, size_t size, uint64_t at) {
    if (opcode == CLOSE) fail("a device was disconnected");
    if (opcode == PING) send_frame(device, PONG, payload, size);
    if (opcode == PING || opcode == PONG) return;
    for (Reply *reply = replies; reply < replies + reply_count; reply++)
        if (size >= reply->prefix.size && memcmp(payload, reply->prefix.bytes, reply->prefix.size) == 0)
            send_frame(device, reply->opcode, reply->answer.bytes, reply->answer.size);
    find_changes(device, payload, size, at);
    if (device->state != PLAYING) return;
    Text *expected = &device->steps[device->step].expected;
    if (memmem(payload, size, expected->bytes, expected->size) != NULL) {
        device->step++;
        play(device);
    }
}

/* Take whole frames, and return how many bytes they have. */
static size_t take_frames(Device *device, char *data, size_t size, uint64_t at) {
    size_t taken = 0;
    if (device->state == UPGRADING) {
        char *end = memmem(data, size, "\r\n\r\n", 4);
        if (end == NULL) return 0;
        if (memcmp(data, "HTTP/1.1 101", 12) != 0) fail("a device was refused");
        taken = end + 4 - data;
        device->state = PLAYING;
        play(device);
    }
    for (;;) {
        const uint8_t *frame = (uint8_t *)data + taken;
        size_t left = size - taken, head = 2;
        if (left < head) return taken;
        uint64_t length = frame[1] & 127;
        int more = length == 126 ? 2 : length == 127 ? 8 : 0;
        if (left < head + more) return taken;
        if (more > 0) length = 0;
        while (more-- > 0) length = length << 8 | frame[head++];
        if (left < head + length) return taken;
        taken += head + length;
        receive_frame(device, frame[0] & 15, (char *)frame + head, length, at);
    }
}

static void receive(Device *device) {
    static char chunk[CHUNK];
    ssize_t size = read(device->socket, chunk, sizeof chunk);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) fail("a connection ended");
    uint64_t at = now();
    char *data = chunk;
    size_t have = size;
    if (device->kept > 0) {
        have += device->kept;
        if (device->room < have) device->rest = grown(device->rest, device->room = 2 * have);
        memcpy(device->rest + device->kept, chunk, size);
        data = device->rest;
    }
    size_t taken = take_frames(device, data, have, at);
    device->kept = have - taken;
    if (device->room < device->kept) device->rest = grown(device->rest, device->room = 2 * device->kept);
    if (device->kept > 0) memmove(device->rest, data + taken, device->kept);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    port = atoi(arguments[1]);
    read_script(arguments[2]);
    poller = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input);
    open_more();
    uint64_t told_at = 0;
    size_t told = 0;
    for (int over = 0; !over;) {
        int happened = epoll_wait(poller, events, EVENTS, 50);
        for (int i = 0; i < happened; i++) {
            Device *device = events[i].data.ptr;
            if (device == NULL)
                over = 1;
            else if (device->state == CONNECTING)
                upgrade(device);
            else
                receive(device);
        }
        if (ready == device_count && arrived > told && now() - told_at > TOLD_US) {
            told_at = now();
            printf("%zu\n", told = arrived);
            fflush(stdout);
        }
    }
    FILE *file = fopen(arguments[3], "wb");
    if (file == NULL || fwrite(arrivals, sizeof *arrivals, arrived, file) != arrived || fclose(file) != 0) fail("arrivals");
    return 0;
}
