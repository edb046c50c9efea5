// Calls a function so often that no ring holds it.
#include <stdio.h>

__attribute__((noipa)) int next(int n) { return n + 1; }

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    for (int n = 0; fgets(line, sizeof line, stdin); n += 100000) {
        for (int i = 0; i < 100000; i++)
            next(n + i);
        puts("done");
    }
}
