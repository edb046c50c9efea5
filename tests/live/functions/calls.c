// Calls functions in all the ways that C has, and writes down each call as it ends: NAME|ARGUMENTS|RETURNED|END.
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#define PROBED __attribute__((noipa))

static jmp_buf place;

PROBED int leaf(int a, const char *text) {
    int r = a - (int)strlen(text);
    printf("leaf|[%d,\"%s\"]|%d|answered\n", a, text, r);
    return r;
}

PROBED long middle(long a) {
    long r = leaf((int)a, "hello") * 1000000007L;
    printf("middle|[%ld]|%ld|answered\n", a, r);
    return r;
}

PROBED int factorial(int n) {
    int r = n <= 1 ? 1 : n * factorial(n - 1);
    printf("factorial|[%d]|%d|answered\n", n, r);
    return r;
}

PROBED int target(int n) {
    printf("target|[%d]|%d|answered\n", n, n * 2);
    return n * 2;
}

// Its last act is a call: a jump, and both return at once.
PROBED int jumps(int n) {
    printf("jumps|[%d]|%d|answered\n", n, (n + 1) * 2);
    return target(n + 1);
}

PROBED void leaves(int depth) {
    printf("leaves|[%d]|null|unwound\n", depth);
    if (depth == 0)
        longjmp(place, 1);
    leaves(depth - 1);
    printf("never\n");
}

PROBED const char *name(int n) {
    static char text[32];
    snprintf(text, sizeof text, "name-%d", n);
    printf("name|[%d]|\"%s\"|answered\n", n, text);
    return text;
}

PROBED int deep(int depth) {
    int r = depth == 0 ? 0 : deep(depth - 1) + 1;
    __asm__ volatile("" ::: "memory");
    return r;
}

PROBED int all(int n) {
    for (int i = 0; i < 5; i++)
        middle(i - 2);
    factorial(6);
    for (int i = 0; i < 3; i++) {
        if (!setjmp(place))
            leaves(3);
        name(i);
    }
    jumps(20);
    deep(100);
    printf("all|[%d]|%d|answered\n", n, -n);
    return -n;
}

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    for (int n = 1; fgets(line, sizeof line, stdin); n++) {
        all(n);
        puts("done");
    }
}
