// Goroutines, panics and stacks that grow: each call is written down as it ends, NAME|ARGUMENTS|RETURNED|END.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sync"
)

//go:noinline
func work(n int, text string) int {
	if n%5 == 4 {
		fmt.Printf("main.work|[%d,\"%s\"]|null|unwound\n", n, text)
		panic("no")
	}
	r := n*1000 - len(text)
	fmt.Printf("main.work|[%d,\"%s\"]|%d|answered\n", n, text, r)
	return r
}

//go:noinline
func safe(n int, text string) (r int) {
	defer func() {
		if recover() != nil {
			r = -1
		}
		fmt.Printf("main.safe|[%d,\"%s\"]|%d|answered\n", n, text, r)
	}()
	return work(n, text)
}

//go:noinline
func name(n int) string {
	text := fmt.Sprintf("name-%d", n)
	fmt.Printf("main.name|[%d]|\"%s\"|answered\n", n, text)
	return text
}

// Each of these has half a KiB on a stack that begins with a few.
//
//go:noinline
func deep(n int) int {
	var room [512]byte
	room[n%512] = 1
	r := int(room[n%512])
	if n > 0 {
		r += deep(n - 1)
	}
	fmt.Printf("main.deep|[%d]|%d|answered\n", n, r)
	return r
}

//go:noinline
func all(n int) int {
	for i := 0; i < 10; i++ {
		safe(i, "two words")
	}
	name(n)
	var group sync.WaitGroup
	for g := 0; g < 4; g++ {
		group.Add(1)
		go func() {
			defer group.Done()
			deep(120)
		}()
	}
	group.Wait()
	fmt.Printf("main.all|[%d]|%d|answered\n", n, -n)
	return -n
}

func main() {
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for n := 1; lines.Scan(); n++ {
		all(n)
		fmt.Println("done")
	}
}
