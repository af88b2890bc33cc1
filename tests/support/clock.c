/* Sets the clock of a process CLOCK_AHEAD_H hours ahead, where LD_PRELOAD names the library of this.

Clocks that count from the boot stay, and so do waits by them. (Under libfaketime 0.9.10 Python's
threading.Event waits for ever.) */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    const char *hours = getenv("CLOCK_AHEAD_H");
    long failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && hours && clock == CLOCK_REALTIME) at->tv_sec += 3600 * atol(hours);
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
