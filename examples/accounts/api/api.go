// Package accounts is the application of the example: accounts in memory, and
// transfers between them. It knows nothing of the policy; who is calling
// arrives in a header that only the image can set.
package accounts

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"sync"
)

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

// New returns the API with a few accounts in it.
func New() (http.Handler, error) {
	b := &bank{accounts: map[string]*account{}}
	for i, owner := range []string{"ada", "grace", "edsger", "barbara", "tony", "leslie", "frances"} {
		id := fmt.Sprint(i + 1)
		b.accounts[id] = &account{ID: id, Owner: owner, Balance: 100_000}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /accounts", b.list)
	mux.HandleFunc("GET /accounts/{id}", b.read)
	mux.HandleFunc("POST /accounts/{id}/transfers", b.transfer)
	return mux, nil
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
	if err := json.NewDecoder(r.Body).Decode(&t); err != nil {
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
