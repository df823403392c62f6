//go:debug decoratemappings=0

// Command image is a generated main in all but its application, which does what
// tests ask of it.
package main

import (
	"crypto/rand"
	"embed"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/app/handler"
	"lorica.dev/lorica/app/static"
	"lorica.dev/lorica/netstack/socket"
	"lorica.dev/lorica/pep/audit"
	"lorica.dev/lorica/pep/audit/channel"
	"lorica.dev/lorica/pep/filter"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/unikernel"
	"lorica.dev/lorica/unikernel/linux"
)

// listener is the first descriptor after the program: there is no dial socket.
const listener = launch.DialFD

//go:embed content
var content embed.FS

func main() {
	unikernel.Main(unikernel.Image{
		Plan:     "6c6f726963616c6f726963616c6f726963616c6f726963616c6f726963616c6f",
		Platform: linux.New(),
		Net:      socket.New(),
		Gates:    []unikernel.Gate{{Section: "firewall", Module: firewall.New()}},
		Guards:   []unikernel.Guard{{Section: "filter", Module: filter.New()}},
		Audit:    unikernel.Audit{Section: "audit", Module: audit.New(), Sinks: []unikernel.Sink{{Section: "audit-channel", Module: channel.New()}}},
		App:      handler.New(construct),
	})
}

func construct() (http.Handler, error) {
	mux := http.NewServeMux()
	site, err := static.New(content, "content")()
	if err != nil {
		return nil, err
	}
	mux.Handle("/files/", http.StripPrefix("/files", site))
	mux.HandleFunc("/library", library)
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		w.Write(b)
	})
	mux.HandleFunc("/garbage", garbage)
	mux.HandleFunc("/clock", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, time.Now().Local().Format(time.RFC1123), started.Local())
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		io.WriteString(w, "slow\n")
	})
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("as asked") })
	mux.HandleFunc("/forbidden/open", func(http.ResponseWriter, *http.Request) { os.ReadFile("/etc/hostname") })
	mux.HandleFunc("/forbidden/dial", func(http.ResponseWriter, *http.Request) { net.Dial("tcp", "127.0.0.1:1") })
	mux.HandleFunc("/forbidden/exec", func(http.ResponseWriter, *http.Request) { exec.Command("/bin/true").Run() })
	mux.HandleFunc("/forbidden/kill", func(http.ResponseWriter, *http.Request) { syscall.Kill(os.Getppid(), 0) })
	mux.HandleFunc("/forbidden/map", func(http.ResponseWriter, *http.Request) { remap() })
	mux.HandleFunc("/forbidden/code", func(http.ResponseWriter, *http.Request) {
		syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_EXEC, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	})
	mux.HandleFunc("/forbidden/shutdown", func(http.ResponseWriter, *http.Request) {
		syscall.Shutdown(listener, syscall.SHUT_RD)
	})
	return mux, nil
}

// library calls what in the standard library would read files or ask for names on
// first use, had the boot not settled it, or does without where there are none.
func library(w http.ResponseWriter, r *http.Request) {
	log.Print("a line with a time")
	r.ParseMultipartForm(1 << 20)
	fmt.Fprintln(w, mime.TypeByExtension(".unknown"), mime.TypeByExtension(".css"), rand.Text(), os.Getenv("HOME"), time.Now())
	http.ServeFileFS(w, r, content, "content/docs/ten.txt")
}

// started is a time from before the seal, which remembers the zone of then.
var started = time.Now()

// garbage makes the collector run, grow and return memory while other requests
// are served.
func garbage(w http.ResponseWriter, r *http.Request) {
	kept := make([][]byte, 64)
	for i := range 2000 {
		kept[i%len(kept)] = make([]byte, 16<<10)
	}
	fmt.Fprintln(w, len(kept))
}

// remap tries to put memory of its own where the program lies.
func remap() {
	const fixed = 0x10 // MAP_FIXED
	syscall.Syscall6(syscall.SYS_MMAP, launch.WindowBase, 4096, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS|fixed, ^uintptr(0), 0)
}
