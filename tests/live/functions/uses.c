// Calls a function of a library, and lets a child do so too.
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int library_call(int n);

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        for (int i = 0; i < 6; i++)
            library_call(i);
        if (fork() == 0) {
            // Its probes come a moment after it.
            sleep(2);
            for (int i = 100; i < 106; i++)
                library_call(i);
            _exit(0);
        }
        wait(NULL);
        puts("done");
    }
}
