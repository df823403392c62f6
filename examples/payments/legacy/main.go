// Command legacy is what the gateway of this example protects: a payments API as
// one finds them, plain HTTP without users, rights or limits. It must not be
// reachable by anybody else; here it listens on loopback.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"sync"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:9000", "address to listen on")
	flag.Parse()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("legacy: ", err)
	}
	// In a demonstration Ctrl-C is for the gateway, which drains first.
	signal.Ignore(os.Interrupt)
	fmt.Println("legacy payments API on", l.Addr())
	log.Fatal(http.Serve(l, newBank()))
}

// An account is what the API shows of one.
type account struct {
	ID      string `json:"id"`
	Owner   string `json:"owner"`
	Balance int64  `json:"balance"`
}

type bank struct {
	mu       sync.Mutex
	accounts map[string]*account
}

func newBank() http.Handler {
	b := &bank{accounts: map[string]*account{}}
	for i, owner := range []string{"ada", "grace", "edsger", "barbara", "tony", "leslie", "frances"} {
		id := fmt.Sprint(i + 1)
		b.accounts[id] = &account{ID: id, Owner: owner, Balance: 100_000}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /accounts", b.list)
	mux.HandleFunc("GET /accounts/{id}", b.read)
	mux.HandleFunc("POST /accounts/{id}/transfers", b.transfer)
	mux.HandleFunc("GET /debug/everything", b.list) // what nobody remembers
	return mux
}

func (b *bank) list(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]account, 0, len(b.accounts))
	for _, a := range b.accounts {
		all = append(all, *a)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	reply(w, http.StatusOK, all)
}

func (b *bank) read(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.accounts[r.PathValue("id")]
	if !ok {
		reply(w, http.StatusNotFound, map[string]string{"error": "no such account"})
		return
	}
	reply(w, http.StatusOK, *a)
}

func (b *bank) transfer(w http.ResponseWriter, r *http.Request) {
	var t struct {
		To     string `json:"to"`
		Amount int64  `json:"amount"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&t); err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": "a transfer is {\"to\": ID, \"amount\": N}"})
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	from, to := b.accounts[r.PathValue("id")], b.accounts[t.To]
	switch {
	case from == nil || to == nil:
		reply(w, http.StatusNotFound, map[string]string{"error": "no such account"})
	case t.Amount <= 0 || t.Amount > from.Balance:
		reply(w, http.StatusConflict, map[string]string{"error": "the balance does not allow this amount"})
	default:
		from.Balance -= t.Amount
		to.Balance += t.Amount
		reply(w, http.StatusCreated, map[string]any{"by": r.Header.Get("Lorica-Principal"), "from": *from, "amount": t.Amount})
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
