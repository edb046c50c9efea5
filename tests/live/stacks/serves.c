// A server of HTTP, a thread for each connection: /spin/MS computes so long in inner, called by middle, called by outer; /rest/MS sleeps there. With WITHIN
// the compiler puts middle into outer.
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noipa))
// What follows a call, so that it is none that is a jump.
#define KEEP(value) __asm__ volatile("" : "+r"(value))

static long now_ms(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

// Asks for the time once in a millisecond or so.
APART unsigned long inner(int ms, int rests) {
    if (rests) {
        usleep(ms * 1000);
        return 0;
    }
    unsigned long sum = ms;
    long until = now_ms(CLOCK_THREAD_CPUTIME_ID) + ms;
    while (now_ms(CLOCK_THREAD_CPUTIME_ID) < until)
        for (int i = 0; i < 1000000; i++) {
            sum = sum * 2862933555777941757 + i;
            KEEP(sum);
        }
    return sum;
}

#ifdef WITHIN
static inline __attribute__((always_inline))
#else
APART
#endif
unsigned long middle(int ms, int rests) {
    char room[300];
    memset(room, ms, sizeof room);
    unsigned long sum = inner(ms, rests) + room[ms % 300];
    KEEP(sum);
    return sum;
}

APART unsigned long outer(const char *path) {
    int rests = strncmp(path, "/rest/", 6) == 0;
    unsigned long sum = middle(atoi(path + 6), rests);
    KEEP(sum);
    return sum;
}

static void *serve(void *at) {
    int conn = (int)(long)at;
    char text[2048], path[256], answer[256];
    for (;;) {
        ssize_t length = read(conn, text, sizeof text - 1);
        if (length <= 0)
            break;
        text[length] = 0;
        if (sscanf(text, "GET %255s", path) != 1)
            break;
        char body[32];
        snprintf(body, sizeof body, "%lu", outer(path));
        snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
        if (write(conn, answer, strlen(answer)) < 0)
            break;
    }
    close(conn);
    return NULL;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 16))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("port %d\n", ntohs(address.sin_port));
    for (;;) {
        pthread_t thread;
        int conn = accept(listener, NULL, NULL);
        if (conn < 0 || pthread_create(&thread, NULL, serve, (void *)(long)conn))
            return 1;
        pthread_detach(thread);
    }
}
