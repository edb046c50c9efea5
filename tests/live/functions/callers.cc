// Calls a function through methods, templates and a catch, and writes down who called it: N|0|CALLERS, the innermost first.
#include <cstdio>
#include <string>
#include <unistd.h>
#include <vector>

#define PROBED __attribute__((noipa))
#define KEEP(value) __asm__ volatile("" : "+r"(value))

static std::vector<const char *> path;

struct Enter {
    explicit Enter(const char *name) { path.push_back(name); }
    ~Enter() { path.pop_back(); }
};

namespace shop {
PROBED int work(int n) {
    std::string line = std::to_string(n) + "|0|";
    for (auto i = path.size(); i-- > 0;)
        line += std::string(path[i]) + (i ? ";" : "\n");
    fputs(line.c_str(), stdout);
    if (n % 10 == 3)
        usleep(250000);
    if (n % 10 == 5)
        throw n;
    return n;
}

struct Shape {
    virtual int area(int n) = 0;
};

struct Square : Shape {
    PROBED int area(int n) override {
        Enter enter("shop::Square::area(int)");
        int r = work(n) + 1;
        KEEP(r);
        return r;
    }
};

template <typename T> PROBED T twice(T n, Shape *shape) {
    Enter enter("int shop::twice<int>(int, shop::Shape*)");
    T r = shape->area(n) + shape->area(n + 1);
    KEEP(r);
    return r;
}

PROBED int catches(int n) {
    Enter enter("shop::catches(int)");
    try {
        int r = work(n);
        KEEP(r);
        return r;
    } catch (int thrown) {
        int r = work(thrown + 8);
        KEEP(r);
        return r;
    }
}
}

int main() {
    char line[64];
    setvbuf(stdout, nullptr, _IOLBF, 0);
    Enter enter("main");
    shop::Square square;
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        int r = shop::twice<int>(102, &square) + shop::twice<int>(112, &square) + shop::catches(205);
        KEEP(r);
        puts("done");
    }
}
