// The same in C++, with exceptions on the way: see serves.c.
#include <arpa/inet.h>
#include <chrono>
#include <ctime>
#include <iostream>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#define APART __attribute__((noipa))
#define KEEP(value) __asm__ volatile("" : "+r"(value))

namespace shop {

static long now_ms() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

APART unsigned long inner(int ms, bool rests) {
    if (rests) {
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
        return 0;
    }
    unsigned long sum = ms;
    long until = now_ms() + ms;
    while (now_ms() < until)
        for (int i = 0; i < 1000000; i++) {
            sum = sum * 2862933555777941757 + i;
            KEEP(sum);
        }
    return sum;
}

APART unsigned long middle(int ms, bool rests) {
    std::string room(ms % 300, 'x');
    try {
        unsigned long sum = inner(ms, rests) + room.size();
        KEEP(sum);
        return sum;
    } catch (const std::runtime_error &error) {
        return room.size();
    }
}

APART unsigned long outer(const std::string &path) {
    unsigned long sum = middle(std::stoi(path.substr(6)), path.compare(0, 6, "/rest/") == 0);
    KEEP(sum);
    return sum;
}

} // namespace shop

static void serve(int conn) {
    char text[2048];
    for (;;) {
        ssize_t length = read(conn, text, sizeof text);
        if (length <= 0)
            break;
        std::string head(text, length);
        std::string path = head.substr(4, head.find(' ', 4) - 4);
        std::string body = std::to_string(shop::outer(path));
        std::string answer =
            "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        if (write(conn, answer.data(), answer.size()) < 0)
            break;
    }
    close(conn);
}

int main() {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener, reinterpret_cast<sockaddr *>(&address), length) || listen(listener, 16))
        return 1;
    getsockname(listener, reinterpret_cast<sockaddr *>(&address), &length);
    std::cout << "port " << ntohs(address.sin_port) << std::endl;
    for (;;)
        std::thread(serve, accept(listener, nullptr, nullptr)).detach();
}
