/* The writers and the devices of `streams`, in one thread with one clock; the same for every server.
 *
 *     appends SCRIPT RESULT
 *
 * Each device plays its steps: it sends bytes and waits for bytes. A token is a marker, ~# and ten digits, and some text
 * behind it; in what a device receives it is recognised by its marker alone, whatever the protocol. A device is there
 * when it has played its steps and has received as many markers as it waits for. It prints `ready` when all are, and
 * then executes the lines of its standard input:
 *
 *     write RATE SECONDS WINDOW EACH DROP
 *     await ARRIVALS
 *
 * RATE tokens a second of each stream, for SECONDS. A writer of the kind GROUPED or PIPELINED sends what is due together,
 * WINDOW ms after the first of it, but one request at a time; the others send each token by itself. With DROP 1, what is
 * late at the end is not sent, and an append has one token only. It prints `done`, the first token's number, and how
 * many, when all are answered and have arrived at EACH devices, or nothing arrives any more. `await` waits for so many
 * arrivals since its start. When its standard input ends it writes RESULT: {uint64 ns of the first connect, and when all
 * devices were there; uint64 tokens, uint64 arrivals}, the tokens {uint64 ns due, sent, answered; uint32 stream, uint32
 * refused}, the arrivals {uint64 ns; uint32 device, uint32 token}. It ends with an error if a connection ends. All ns are
 * of CLOCK_MONOTONIC.
 *
 * SCRIPT, little-endian: uint32 devices that connect at the same time, text behind a marker, uint32 its characters;
 * uint32 devices, each {uint32 port, uint32 markers that it waits for, uint32 steps, each {text sent, text expected}};
 * uint32 writers, each {uint8 kind, uint32 port, text headers of a request, uint32 streams, each {text name}};
 * a text is {uint32 size, bytes}.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "appends"
#include "script.h"

enum { EVENTS = 1024, CHUNK = 1 << 18, MARKER = 12, CARRY = MARKER - 1, LARGEST_ANSWER = 1 << 17 };
enum { SINGLE, GROUPED, ONE_BY_ONE, PIPELINED }; /* over HTTP the first two, to Redis the others */
enum State { WAITING, CONNECTING, PLAYING, READY };
static const uint64_t SECOND = 1000000000, SILENCE = 10, PATIENCE = 60;

typedef struct {
    Text sent, expected;
} Step;

typedef struct {
    int writer; /* and not a device: both begin so */
    enum State state;
    int socket, carried, there;
    uint32_t port, wanted, had, step, count;
    Step *steps;
    char carry[CARRY]; /* the last bytes, in which a marker may have begun */
} Device;

typedef struct {
    Text name;
    uint64_t offset, phase;
    uint32_t writer, due, sent; /* tokens of this `write` */
} Stream;

typedef struct {
    int writer;
    int kind, socket, begun;
    uint32_t port, first, count; /* its streams */
    Text headers;
    uint64_t deadline;             /* when what is due is sent; 0: nothing is due */
    uint32_t *unanswered, waiting; /* tokens of its request, and how many */
    uint32_t appends;
    char *answer;
    size_t have;
} Writer;

typedef struct {
    uint64_t due, sent, answered;
    uint32_t stream, refused;
} Token;

typedef struct {
    uint64_t at;
    uint32_t device, token;
} Arrival;

static Device *devices;
static Writer *writers;
static Stream *streams, **order;
static Token *tokens;
static Arrival *arrivals;
static Text tail;
static uint32_t device_count, writer_count, stream_count, at_once, opened, ready, tail_characters;
static size_t token_count, token_room, arrived, arrival_room;
static uint64_t began, all_there, last_arrival;
static int poller;

static char *out; /* the request that is being made */
static size_t out_size, out_room;

static uint64_t started, end, period, window; /* of this command */
static uint64_t next_event, events_in_all, answered, first_token, arrivals_before, each, awaited;
static int busy, drop;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static void read_script(const char *path) {
    open_script(path);
    at_once = take_number();
    tail = take_text();
    tail_characters = take_number();
    device_count = take_number();
    devices = grown(NULL, (device_count + 1) * sizeof *devices);
    memset(devices, 0, (device_count + 1) * sizeof *devices);
    for (Device *device = devices; device < devices + device_count; device++) {
        device->port = take_number();
        device->wanted = take_number();
        device->count = take_number();
        device->steps = grown(NULL, (device->count + 1) * sizeof *device->steps);
        for (uint32_t i = 0; i < device->count; i++) {
            device->steps[i].sent = take_text();
            device->steps[i].expected = take_text();
            if (device->steps[i].expected.size > MARKER) fail("what a device expects is too long");
        }
    }
    writer_count = take_number();
    writers = grown(NULL, (writer_count + 1) * sizeof *writers);
    memset(writers, 0, (writer_count + 1) * sizeof *writers);
    for (uint32_t i = 0; i < writer_count; i++) {
        Writer *writer = &writers[i];
        writer->writer = 1;
        writer->kind = take_byte();
        writer->port = take_number();
        writer->headers = take_text();
        writer->first = stream_count;
        writer->count = take_number();
        writer->answer = grown(NULL, LARGEST_ANSWER);
        streams = grown(streams, (stream_count + writer->count) * sizeof *streams);
        for (; stream_count < writer->first + writer->count; stream_count++)
            streams[stream_count] = (Stream){.name = take_text(), .writer = i};
    }
}

/* A device waits for its connection among others; a writer, without EPOLLOUT, at once. */
static int connecting(uint32_t port, void *who, uint32_t interest) {
    int made = socket(AF_INET, SOCK_STREAM | (interest & EPOLLOUT ? SOCK_NONBLOCK : 0), 0), on = 1, room = 1 << 20;
    if (made < 0) fail("socket");
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(made, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(made, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) fail("connect");
    fcntl(made, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = interest, .data.ptr = who};
    epoll_ctl(poller, EPOLL_CTL_ADD, made, &event);
    return made;
}

static void open_more(void) {
    while (opened < device_count && opened - ready < at_once) {
        Device *device = &devices[opened++];
        device->socket = connecting(device->port, device, EPOLLIN | EPOLLOUT);
        device->state = CONNECTING;
    }
}

static void be_ready(Device *device) {
    if (device->there || device->state != READY || device->had < device->wanted) return;
    device->there = 1;
    if (++ready == device_count) {
        all_there = now();
        puts("ready");
        fflush(stdout);
    }
    open_more();
}

/* Send what the device's step sends. */
static void play(Device *device) {
    if (device->step == device->count) {
        device->state = READY;
        be_ready(device);
        return;
    }
    Text *sent = &device->steps[device->step].sent;
    if (sent->size > 0 && send(device->socket, sent->bytes, sent->size, MSG_NOSIGNAL) != (ssize_t)sent->size)
        fail("a device could not send");
}

static void begin(Device *device) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(device->socket, SOL_SOCKET, SO_ERROR, &error, &size);
    if ((errno = error) != 0) fail("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = device};
    epoll_ctl(poller, EPOLL_CTL_MOD, device->socket, &event);
    device->state = PLAYING;
    play(device);
}

static void find_tokens(Device *device, const char *data, size_t size, uint64_t at) {
    const char *end = data + size, *marker = data;
    while ((marker = memmem(marker, end - marker, "~#", 2)) != NULL && end - marker >= MARKER) {
        uint32_t token = 0;
        for (int i = 2; i < MARKER; i++) token = token * 10 + (marker[i] - '0');
        if (arrived == arrival_room)
            arrivals = grown(arrivals, (arrival_room = arrival_room ? 2 * arrival_room : 1 << 16) * sizeof *arrivals);
        arrivals[arrived++] = (Arrival){at, (uint32_t)(device - devices), token};
        last_arrival = at;
        device->had++;
        marker += MARKER;
    }
}

static void receive(Device *device) {
    static char chunk[CARRY + CHUNK];
    memcpy(chunk, device->carry, device->carried);
    ssize_t size = read(device->socket, chunk + device->carried, CHUNK);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        fprintf(stderr, "appends: device %ld of %u had received %u tokens, and %u devices were there\n",
                (long)(device - devices), device_count, device->had, ready);
        fail("a device's connection ended");
    }
    size_t have = device->carried + size;
    find_tokens(device, chunk, have, now());
    size_t from = 0;
    while (device->state == PLAYING) {
        Text *expected = &device->steps[device->step].expected;
        char *found = memmem(chunk + from, have - from, expected->bytes, expected->size);
        if (found == NULL) break;
        from = found + expected->size - chunk;
        device->step++;
        play(device);
    }
    be_ready(device);
    size_t left = have - from;
    device->carried = left < CARRY ? (int)left : CARRY;
    memcpy(device->carry, chunk + have - device->carried, device->carried);
}

static void put(const char *bytes, size_t size) {
    if (out_size + size > out_room) out = grown(out, out_room = 2 * (out_size + size));
    memcpy(out + out_size, bytes, size);
    out_size += size;
}

static void put_text(Text text) { put(text.bytes, text.size); }

#define PUT(...) put(line, snprintf(line, sizeof line, __VA_ARGS__))

/* Make the stream's next token, and put its text. */
static void put_token(Writer *writer, Stream *stream) {
    char line[32];
    if (token_count == token_room)
        tokens = grown(tokens, (token_room = token_room ? 2 * token_room : 1 << 16) * sizeof *tokens);
    uint64_t due = started + stream->phase + stream->sent++ * period;
    tokens[token_count] = (Token){.due = due, .stream = (uint32_t)(stream - streams)};
    PUT("~#%010u", (uint32_t)token_count);
    put_text(tail);
    stream->offset += MARKER + tail_characters;
    writer->unanswered = grown(writer->unanswered, (writer->waiting + 1) * sizeof *writer->unanswered);
    writer->unanswered[writer->waiting++] = (uint32_t)token_count++;
}

static void put_entry(Writer *writer, Stream *stream) {
    char line[64];
    PUT("*5\r\n$4\r\nXADD\r\n$%u\r\n", stream->name.size);
    put_text(stream->name);
    PUT("\r\n$1\r\n*\r\n$1\r\nt\r\n$%u\r\n", MARKER + tail.size);
    put_token(writer, stream);
    put("\r\n", 2);
    writer->appends++;
}

/* Send what is due of the writer's streams. */
static void send_due(Writer *writer) {
    static char head[4096];
    char line[64];
    Stream *first = &streams[writer->first], *end = first + writer->count;
    size_t head_size = 0;
    writer->deadline = 0;
    writer->waiting = writer->appends = 0;
    out_size = 0;
    if (writer->kind == ONE_BY_ONE) {
        put_entry(writer, first);
    } else if (writer->kind == PIPELINED) {
        for (Stream *stream = first; stream < end; stream++)
            while (stream->sent < stream->due) put_entry(writer, stream);
    } else {
        char name[64] = "";
        if (writer->kind == SINGLE) {
            PUT("{\"offset\":%lu,\"text\":\"", first->offset);
            put_token(writer, first);
            put("\"}", 2);
            writer->appends = 1;
            snprintf(name, sizeof name, "/%.*s", (int)first->name.size, first->name.bytes);
        } else {
            put("{\"appends\":[", 12);
            for (Stream *stream = first; stream < end; stream++) {
                if (stream->sent == stream->due) continue;
                if (writer->appends++ > 0) put(",", 1);
                put("[\"", 2);
                put_text(stream->name);
                PUT("\",%lu,\"", stream->offset);
                put_token(writer, stream);
                while (!drop && stream->sent < stream->due) put_token(writer, stream);
                put("\"]", 2);
            }
            put("]}", 2);
        }
        head_size = snprintf(head, sizeof head,
                             "PATCH /v1/streams%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%.*sContent-Length: %zu\r\n\r\n", name,
                             writer->port, (int)writer->headers.size, writer->headers.bytes, out_size);
    }
    struct iovec parts[] = {{head, head_size}, {out, out_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    uint64_t at = now();
    for (uint32_t i = 0; i < writer->waiting; i++) tokens[writer->unanswered[i]].sent = at;
    if (sendmsg(writer->socket, &message, MSG_NOSIGNAL) != (ssize_t)(head_size + out_size)) fail("a request was not sent");
}

static uint32_t occurrences(const char *data, size_t size, const char *what) {
    uint32_t count = 0;
    const char *end = data + size;
    for (size_t length = strlen(what); (data = memmem(data, end - data, what, length)) != NULL; data += length) count++;
    return count;
}

/* Return whether the answer is complete, and how many appends it refuses. */
static int complete(Writer *writer, uint32_t *refused) {
    char *data = writer->answer, *end = data + writer->have;
    if (writer->kind == ONE_BY_ONE || writer->kind == PIPELINED) { /* of each append its id: $15\r\n…\r\n, or -ERR …\r\n */
        *refused = 0;
        for (uint32_t i = 0; i < writer->appends; i++) {
            int lines = data < end && *data == '$' ? 2 : 1;
            *refused += lines == 1;
            for (; lines > 0; lines--) {
                char *line = memchr(data, '\n', end - data);
                if (line == NULL) return 0;
                data = line + 1;
            }
        }
        return 1;
    }
    char *body = memmem(data, writer->have, "\r\n\r\n", 4);
    if (body == NULL) return 0;
    body += 4;
    size_t size = 0;
    for (char *line = data; line < body; line = (char *)memchr(line, '\n', body - line) + 1)
        if (strncasecmp(line, "content-length:", 15) == 0) size = strtoul(line + 15, NULL, 10);
    if ((size_t)(end - body) < size) return 0;
    if (memcmp(data, "HTTP/1.1 200", 12) != 0)
        *refused = writer->appends;
    else
        *refused = writer->kind == SINGLE ? 0 : writer->appends - occurrences(body, size, "[200,");
    if (*refused > 0) fprintf(stderr, "appends: refused: %.*s\n", (int)(writer->have < 300 ? writer->have : 300), data);
    return 1;
}

/* Numbers from 0 to 1, as evenly spread as can be for any count of them. */
static double golden(uint64_t number) {
    double turn = (double)number * 0.6180339887498949;
    return turn - (double)(uint64_t)turn;
}

static int is_due(Writer *writer) {
    for (Stream *stream = &streams[writer->first]; stream < &streams[writer->first + writer->count]; stream++)
        if (stream->sent < stream->due) return 1;
    return 0;
}

static void hear(Writer *writer) {
    ssize_t size = read(writer->socket, writer->answer + writer->have, LARGEST_ANSWER - writer->have);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) fail("a writer's connection ended, or its answer was too long");
    uint64_t at = now();
    writer->have += size;
    uint32_t refused;
    if (!complete(writer, &refused)) return;
    for (uint32_t i = 0; i < writer->waiting; i++) {
        tokens[writer->unanswered[i]].answered = at;
        tokens[writer->unanswered[i]].refused = refused;
    }
    answered += writer->waiting;
    writer->waiting = writer->have = 0;
    if (writer->deadline == 0 && is_due(writer)) writer->deadline = at;
    if (writer->deadline != 0 && writer->deadline <= at) send_due(writer);
}

/* Send what is due now. Return when the next is, 0 if nothing will be. */
static uint64_t make_due(void) {
    uint64_t at = now(), next = 0;
    for (; next_event < events_in_all; next_event++) {
        Stream *stream = order[next_event % stream_count];
        next = started + stream->phase + next_event / stream_count * period;
        if (next > at) break;
        stream->due++;
        Writer *writer = &writers[stream->writer];
        if (writer->kind == SINGLE || writer->kind == ONE_BY_ONE) {
            if (writer->waiting == 0) send_due(writer);
        } else if (writer->deadline == 0) {
            /* Backends know nothing of each other: the first request of each comes at another time. */
            double turn = writer->begun ? 1 : golden((uint64_t)(writer - writers + 1));
            writer->deadline = at + (uint64_t)(turn * window);
            writer->begun = 1;
        }
        next = 0;
    }
    for (Writer *writer = writers; writer < writers + writer_count; writer++) {
        if (writer->deadline == 0 || writer->waiting > 0) continue;
        if (writer->deadline <= at)
            send_due(writer);
        else if (next == 0 || writer->deadline < next)
            next = writer->deadline;
    }
    return next;
}

static int by_phase(const void *one, const void *other) {
    uint64_t a = (*(Stream **)one)->phase, b = (*(Stream **)other)->phase;
    return (a > b) - (a < b);
}

static void write_tokens(const char *line) {
    double rate, seconds, milliseconds;
    if (sscanf(line, "write %lf %lf %lf %lu %d", &rate, &seconds, &milliseconds, &each, &drop) != 5) fail("command");
    period = (uint64_t)(SECOND / rate);
    window = (uint64_t)(milliseconds * 1e6);
    order = grown(order, stream_count * sizeof *order);
    for (uint32_t i = 0; i < stream_count; i++) {
        /* Spread over the period, so that no writer's streams are due together. */
        streams[i].phase = (uint64_t)(golden(i) * period);
        streams[i].due = streams[i].sent = 0;
        order[i] = &streams[i];
    }
    for (Writer *writer = writers; writer < writers + writer_count; writer++) {
        /* Not earlier: a server closes a connection that asks nothing. */
        if (writer->socket == 0) writer->socket = connecting(writer->port, writer, EPOLLIN);
        writer->begun = 0;
    }
    qsort(order, stream_count, sizeof *order, by_phase);
    events_in_all = stream_count * (uint64_t)(rate * seconds + 0.5);
    first_token = token_count;
    started = last_arrival = now();
    end = started + period * (events_in_all / stream_count);
    awaited = UINT64_MAX;
}

static void execute(const char *line) {
    next_event = answered = events_in_all = drop = 0;
    arrivals_before = arrived;
    busy = 1;
    if (sscanf(line, "await %lu", &awaited) != 1) {
        write_tokens(line);
        return;
    }
    started = end = last_arrival = now();
}

/* Forget what is due and was not sent. */
static void drop_late(void) {
    for (Stream *stream = streams; stream < streams + stream_count; stream++) stream->due = stream->sent;
    for (Writer *writer = writers; writer < writers + writer_count; writer++) writer->deadline = 0;
    events_in_all = next_event = token_count - first_token;
    drop = 0;
}

static void see_whether_done(void) {
    uint64_t at = now();
    if (drop && at > end) drop_late();
    /* What was under way when the rest was dropped counts, too. */
    if (awaited == UINT64_MAX && events_in_all < token_count - first_token) events_in_all = token_count - first_token;
    if (answered < events_in_all) {
        if (at > end + PATIENCE * SECOND) fail("appends were not answered");
        return;
    }
    if (drop) return;
    uint64_t wanted = awaited != UINT64_MAX ? awaited : arrivals_before + events_in_all * each;
    uint64_t last = last_arrival > end ? last_arrival : end;
    if (arrived < wanted && at < last + SILENCE * SECOND) return;
    busy = 0;
    printf("done %lu %lu\n", first_token, events_in_all);
    fflush(stdout);
}

static void save(const char *path) {
    FILE *file = fopen(path, "wb");
    uint64_t head[] = {began, all_there, token_count, arrived};
    if (file == NULL || fwrite(head, sizeof head, 1, file) != 1 ||
        fwrite(tokens, sizeof *tokens, token_count, file) != token_count ||
        fwrite(arrivals, sizeof *arrivals, arrived, file) != arrived || fclose(file) != 0)
        fail("result");
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    read_script(arguments[1]);
    poller = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input);
    began = now();
    open_more();
    for (;;) {
        uint64_t next = busy ? make_due() : 0, at = now();
        if (busy) see_whether_done();
        uint64_t wait = next == 0 ? SECOND / 20 : next <= at ? 0 : next - at < SECOND / 20 ? next - at : SECOND / 20;
        struct timespec time = {.tv_sec = 0, .tv_nsec = (long)wait};
        int happened = epoll_pwait2(poller, events, EVENTS, &time, NULL);
        for (int i = 0; i < happened; i++) {
            Device *device = events[i].data.ptr;
            if (device == NULL) {
                char line[256];
                ssize_t size = read(STDIN_FILENO, line, sizeof line - 1);
                if (size <= 0) {
                    save(arguments[2]);
                    return 0;
                }
                line[size] = 0;
                execute(line);
            } else if (device->writer) {
                hear((Writer *)device);
            } else if (device->state == CONNECTING) {
                begin(device);
            } else {
                receive(device);
            }
        }
    }
}
