package api_test

import (
	"reflect"
	"testing"
	"time"

	"lorica.dev/lorica/api"
)

func TestFilterDefaults(t *testing.T) {
	var none *api.RequestFilter
	want := api.RequestFilter{MaxHeaderBytes: 16 << 10, MaxBodyBytes: 1 << 20, MaxPathBytes: 2048, MaxConnections: 1024,
		MaxHeaders: 100, MaxStreams: 32, HandshakeTimeout: 10 * time.Second, HeaderTimeout: 10 * time.Second, BodyTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, RejectEncodedSlash: true}
	if got := none.WithDefaults(); !reflect.DeepEqual(got, want) {
		t.Errorf("without a filter: got %+v, want %+v", got, want)
	}
	some := &api.RequestFilter{MaxBodyBytes: 10, BodyTimeout: time.Second}
	want.MaxBodyBytes, want.BodyTimeout, want.RejectEncodedSlash = 10, time.Second, false
	if got := some.WithDefaults(); !reflect.DeepEqual(got, want) {
		t.Errorf("what is written stays: got %+v, want %+v", got, want)
	}
	if some.MaxPathBytes != 0 {
		t.Error("the filter itself was changed")
	}
}

func TestPosition(t *testing.T) {
	p := api.Pos{File: "policy.yaml", Line: 41, Column: 7}
	if p.String() != "policy.yaml:41:7" || p.Short() != "policy.yaml:41" {
		t.Errorf("got %s and %s", p, p.Short())
	}
	if s := (api.Pos{File: "policy.yaml"}).Short(); s != "" {
		t.Errorf("an unknown line is written as %q", s)
	}
}

func TestTiersRoundTrip(t *testing.T) {
	for _, x := range []api.Tier{api.TierFull, api.TierNoUserns, api.TierNoLandlock} {
		if got, ok := api.ParseTier(x.String()); !ok || got != x {
			t.Errorf("%s: got %s, %v", x, got, ok)
		}
	}
	if _, ok := api.ParseTier("unknown"); ok {
		t.Error("an unknown tier has a value")
	}
}
