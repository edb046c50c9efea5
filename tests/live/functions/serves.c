// A server of HTTP, a thread for each connection, whose requests are handled by functions. Writes down each call: NAME|ARGUMENTS|RETURNED|END.
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROBED __attribute__((noipa))

PROBED int price(int n) {
    printf("price|[%d]|%d|answered\n", n, n * 3);
    return n * 3;
}

PROBED int handle(const char *path) {
    int sum = 0;
    for (int i = 1; i <= 2; i++)
        sum += price(atoi(path + 1) * i);
    printf("handle|[\"%s\"]|%d|answered\n", path, sum);
    return sum;
}

// Between two requests.
PROBED int idle(int n) {
    printf("idle|[%d]|%d|answered\n", n, n);
    return n;
}

static void *serve(void *at) {
    int conn = (int)(long)at;
    char text[2048], path[256], answer[256];
    for (int n = 0;; n++) {
        ssize_t length = read(conn, text, sizeof text - 1);
        if (length <= 0)
            break;
        text[length] = 0;
        if (sscanf(text, "GET %255s", path) != 1)
            break;
        char body[32];
        snprintf(body, sizeof body, "%d", handle(path));
        snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
        if (write(conn, answer, strlen(answer)) < 0)
            break;
        idle(n);
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
