// Exceptions through probed functions: each call is written down as it ends, NAME|ARGUMENTS|RETURNED|END.
#include <cstdio>
#include <stdexcept>

#define PROBED __attribute__((noipa))

namespace shop {
// Throws for what can be divided by three.
PROBED int check(int n) {
    if (n % 3 == 0) {
        printf("shop::check(int)|[%d]|null|unwound\n", n);
        throw std::runtime_error("no");
    }
    printf("shop::check(int)|[%d]|%d|answered\n", n, n);
    return n;
}

struct Cart {
    int sum = 0;
    PROBED int add(int n, const char *what);
};

PROBED int Cart::add(int n, const char *what) {
    const char *end = n % 3 ? "answered" : "unwound";
    if (n % 3 == 0)
        printf("shop::Cart::add(int, char const*)|[%d,\"%s\"]|null|%s\n", n, what, end);
    sum += check(n);
    printf("shop::Cart::add(int, char const*)|[%d,\"%s\"]|%d|%s\n", n, what, sum, end);
    return sum;
}

// The exception goes over all of them.
PROBED long sinks(int depth) {
    printf("shop::sinks(int)|[%d]|null|unwound\n", depth);
    long r = depth ? sinks(depth - 1) : check(3);
    __asm__ volatile("" ::: "memory");
    return r + 1;
}

PROBED int recurses(int depth) {
    int r = depth ? recurses(depth - 1) + 1 : 0;
    printf("shop::recurses(int)|[%d]|%d|answered\n", depth, r);
    return r;
}

// Catches, and calls again.
PROBED int all(int n) {
    int caught = 0;
    Cart cart;
    for (int i = 0; i < 8; i++) {
        try {
            cart.add(i, "thing");
        } catch (const std::exception &) {
            caught++;
        }
    }
    try {
        sinks(5);
    } catch (const std::exception &) {
        caught++;
    }
    recurses(90);
    printf("shop::all(int)|[%d]|%d|answered\n", n, caught);
    return caught;
}
} // namespace shop

int main() {
    char line[64];
    setvbuf(stdout, nullptr, _IOLBF, 0);
    puts("ready");
    for (int n = 1; fgets(line, sizeof line, stdin); n++) {
        shop::all(n);
        puts("done");
    }
}
