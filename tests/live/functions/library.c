// A library of which several programs call a function. Writes down each call: NAME|ARGUMENTS|RETURNED|END.
#include <stdio.h>

__attribute__((noipa)) int library_call(int n) {
    printf("library_call|[%d]|%d|answered\n", n, n * n);
    return n * n;
}
