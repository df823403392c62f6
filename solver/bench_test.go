package solver

import (
	"context"
	"errors"
	"os"
	"testing"

	"lorica.dev/lorica/catalog"
)

// everything asks of the catalogue of this repository what a policy with a bit of
// everything does.
func everything(t testing.TB) (*catalog.Catalog, Request) {
	c, err := catalog.Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	return c, asks("image/process", "net", "pep/firewall", "pep/tls", "pep/obligations", "pep/filter", "pep/sourcelimit",
		"pep/authn/jwt", "pep/principallimit", "pep/authz", "pep/audit", "pep/egress", "app/proxy")
}

func TestTheCatalogueHasASetForEverything(t *testing.T) {
	c, q := everything(t)
	sel, err := Solve(context.Background(), c, q)
	if err != nil || !sel.Proven {
		t.Fatalf("%+v, %v", sel, err)
	}
	list, err := Explain(context.Background(), c, q, sel)
	if err != nil || len(list) != len(sel.Modules) {
		t.Fatalf("%v, %v", list, err)
	}
}

func BenchmarkSolve(b *testing.B) {
	c, q := everything(b)
	for b.Loop() {
		if _, err := Solve(context.Background(), c, q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnsatisfiable(b *testing.B) {
	c, q := everything(b)
	q.Prohibitions = forbid("pep/filter", 1)
	var u *Unsatisfiable
	for b.Loop() {
		if _, err := Solve(context.Background(), c, q); !errors.As(err, &u) {
			b.Fatal(err)
		}
	}
}

func BenchmarkExplain(b *testing.B) {
	c, q := everything(b)
	sel, err := Solve(context.Background(), c, q)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Explain(context.Background(), c, q, sel); err != nil {
			b.Fatal(err)
		}
	}
}
