/* A slow disk: preloaded into Postgres, it makes each flush of the WAL take at least FLUSH_US microseconds.
 *
 * The WAL is flushed by fdatasync. Checkpoints use fsync, which stays as it is.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int fdatasync(int file) {
    static long least = -1;
    if (least < 0) {
        const char *given = getenv("FLUSH_US");
        least = given ? atol(given) : 0;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long result = syscall(SYS_fdatasync, file);
    int error = errno;
    until.tv_nsec += least % 1000000 * 1000;
    until.tv_sec += least / 1000000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) continue;
    errno = error;
    return (int)result;
}
