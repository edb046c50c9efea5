// Calls one function in many ways, and writes down who called it: N|WHERE IN ITS CALLER|CALLERS, the innermost first.
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PROBED __attribute__((noipa))
#define ENTER(name) path[depth++] = #name
#define LEAVE depth--
// What follows a call, so that it is none that is a jump.
#define KEEP(value) __asm__ volatile("" : "+r"(value))

static __thread const char *path[256];
static __thread int depth;

// Every tenth takes long.
PROBED int work(int n, char *caller) {
    char line[4096];
    int at = snprintf(line, sizeof line, "%d|%#lx|", n, (long)((char *)__builtin_return_address(0) - caller));
    for (int i = depth; i-- > 0;)
        at += snprintf(line + at, sizeof line - at, "%s%s", path[i], i ? ";" : "\n");
    fputs(line, stdout);
    if (n % 10 == 3)
        usleep(250000);
    return n + 1;
}

PROBED int inner(int n) {
    ENTER(inner);
    int r = work(n, (char *)inner);
    KEEP(r);
    LEAVE;
    return r;
}

PROBED int middle(int n) {
    ENTER(middle);
    int r = inner(n) + inner(n + 1);
    KEEP(r);
    LEAVE;
    return r;
}

PROBED int outer(int n) {
    ENTER(outer);
    int r = middle(n);
    KEEP(r);
    r += work(n + 2, (char *)outer);
    KEEP(r);
    LEAVE;
    return r;
}

PROBED int climb(int steps, int n) {
    ENTER(climb);
    int r = steps ? climb(steps - 1, n) : work(n, (char *)climb);
    KEEP(r);
    LEAVE;
    return r;
}

// Its last act is a call, which is a jump: it is not among the callers.
PROBED int jumps(int n) {
    return inner(n);
}

PROBED void *thread(void *n) {
    ENTER(thread);
    int r = outer((int)(long)n);
    KEEP(r);
    LEAVE;
    return NULL;
}

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    ENTER(main);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        outer(100);
        outer(111);
        climb(5, 203);
        climb(5, 204);
        climb(100, 303);
        climb(100, 304);
        jumps(403);
        jumps(404);
        pthread_t threads[3];
        for (long i = 0; i < 3; i++)
            pthread_create(&threads[i], NULL, thread, (void *)(1001 + 10 * i));
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        puts("done");
    }
}
