// Calls a function from goroutines, methods, deep recursion on a stack that grows and a deferred call, and writes down who called it, as the runtime
// says: N|0|CALLERS, the innermost first.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

//go:noinline
func work(n int) int {
	var places [256]uintptr
	frames := runtime.CallersFrames(places[:runtime.Callers(2, places[:])])
	var callers []string
	for {
		frame, more := frames.Next()
		callers = append(callers, frame.Function)
		if !more {
			break
		}
	}
	fmt.Printf("%d|0|%s\n", n, strings.Join(callers, ";"))
	if n%10 == 3 {
		time.Sleep(250 * time.Millisecond)
	}
	return n
}

type cart struct{ sum int }

//go:noinline
func (c *cart) add(n int) int {
	c.sum += work(n)
	return c.sum
}

//go:noinline
func deep(steps int, n int) int {
	var room [512]byte
	room[steps%512] = 1
	if steps == 0 {
		return work(n) + int(room[0])
	}
	return deep(steps-1, n) + int(room[steps%512])
}

//go:noinline
func deferred(n int) (r int) {
	defer func() { r = work(n) }()
	return 0
}

//go:noinline
func all() {
	c := &cart{}
	c.add(102)
	c.add(103)
	var group sync.WaitGroup
	for g := 0; g < 4; g++ {
		group.Add(1)
		go func() {
			defer group.Done()
			deep(20, 1003+10*g)
			deep(20, 1004+10*g)
			deep(100, 2003+10*g)
		}()
	}
	group.Wait()
	deferred(203)
}

func main() {
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		all()
		fmt.Println("done")
	}
}
