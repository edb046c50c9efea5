// Marks as <sys/sdt.h> makes them, one with a counter that is raised while somebody looks. Writes down each: NAME|ARGUMENTS|RETURNED|END.
#include <stdio.h>

#define MARK(provider, name, counter, arguments, ...)                                                                       \
    __asm__ volatile("990: nop\n"                                                                                           \
                     ".pushsection .note.stapsdt,\"\",\"note\"\n"                                                            \
                     ".balign 4\n"                                                                                          \
                     ".4byte 992f-991f, 994f-993f, 3\n"                                                                     \
                     "991: .asciz \"stapsdt\"\n"                                                                            \
                     "992: .balign 4\n"                                                                                     \
                     "993: .8byte 990b, _.stapsdt.base, " counter "\n"                                                      \
                     ".asciz \"" provider "\"\n"                                                                            \
                     ".asciz \"" name "\"\n"                                                                                \
                     ".asciz \"" arguments "\"\n"                                                                           \
                     "994: .balign 4\n"                                                                                     \
                     ".popsection\n"                                                                                        \
                     ".ifndef _.stapsdt.base\n"                                                                             \
                     ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"                                \
                     ".weak _.stapsdt.base\n"                                                                               \
                     ".hidden _.stapsdt.base\n"                                                                             \
                     "_.stapsdt.base: .space 1\n"                                                                           \
                     ".size _.stapsdt.base, 1\n"                                                                            \
                     ".popsection\n"                                                                                        \
                     ".endif\n" ::__VA_ARGS__)

__attribute__((used, section(".probes"))) unsigned short is_looked_at;

__attribute__((noipa)) int counts(int n, const char *text) {
    MARK("shop", "sold", "0", "-4@%[n] 8@%[text] -4@$-7", [n] "r"(n), [text] "r"(text));
    printf("shop:sold|[%d,\"%s\",-7]|null|answered\n", n, text);
    if (is_looked_at) {
        MARK("shop", "looked", "is_looked_at", "-4@%[n]", [n] "m"(n));
        printf("shop:looked|[%d]|null|answered\n", n);
    }
    printf("counts|[%d]|%d|answered\n", n, n + 1);
    return n + 1;
}

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        for (int i = -3; i < 3; i++)
            counts(i, "thing");
        puts("done");
    }
}
