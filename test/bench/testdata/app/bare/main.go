// Command bare is what images are measured against: the same application under
// net/http alone, with nothing around it.
package main

import (
	"flag"
	"log"
	"net/http"

	app "example.com/bench"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	h, err := app.New()
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(*addr, h))
}
