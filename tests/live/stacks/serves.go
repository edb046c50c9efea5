// The same in Go: see serves.c. The goroutine of a connection keeps its thread, so that its thread is its own.
package main

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var kept uint64

//go:noinline
func inner(ms int, rests bool) uint64 {
	if rests {
		rest := syscall.NsecToTimespec(int64(ms) * 1000000)
		syscall.Nanosleep(&rest, nil)
		return 0
	}
	sum, until := uint64(ms), time.Now().Add(time.Duration(ms)*time.Millisecond)
	for time.Now().Before(until) {
		for i := uint64(0); i < 1000000; i++ {
			sum = sum*2862933555777941757 + i
		}
		kept += sum
	}
	return sum
}

//go:noinline
func middle(ms int, rests bool) uint64 {
	room := make([]byte, 300)
	return inner(ms, rests) + uint64(room[ms%300])
}

//go:noinline
func outer(path string) uint64 {
	ms, _ := strconv.Atoi(path[6:])
	return middle(ms, strings.HasPrefix(path, "/rest/")) + kept%2
}

func serve(conn net.Conn) {
	runtime.LockOSThread()
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		for head := ""; head != "\r\n"; {
			if head, err = reader.ReadString('\n'); err != nil {
				return
			}
		}
		body := strconv.FormatUint(outer(strings.Split(line, " ")[1]), 10)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("port", listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go serve(conn)
	}
}
