package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
)

// nobody is a name that no policy knows.
const nobody = "lorica-verify"

// credentials shows that a rule of authentication refuses what is wrong. That it takes what
// is right, requests that are allowed show.
func (v *verifier) credentials(ctx context.Context, r *Result) {
	if len(v.doors) == 0 {
		r.Why = "no network rule lets a connection from this machine in"
		return
	}
	list := v.wrong(r)
	for _, l := range list {
		q, why := v.served(l)
		if q == nil {
			r.Why = why
			return
		}
		e := expectation{abi.Deny, abi.StageAuthn, abi.Rule{ID: r.Rule, Line: r.Line}}
		t, err := v.send(ctx, q, e)
		if err == nil || len(r.Sent) == 0 {
			r.add(t, err)
		}
	}
}

// served returns a request for something that exists.
func (v *verifier) served(l *login) (*request, string) {
	l, err := v.connected(l, "", "")
	if err != nil {
		return nil, err.Error()
	}
	q := &request{door: v.doors[0], method: "GET", target: "/", login: l, level: v.Level.Name}
	if list := v.Deployment.Policy.Routes; len(list) > 0 {
		r := &list[0]
		if i := slices.IndexFunc(list, func(r api.Route) bool { return r.Method == "GET" || r.Method == "*" }); i >= 0 {
			r = &list[i]
		}
		if err := v.write(q, r, nil); err != nil {
			return nil, err.Error()
		}
	}
	return q, ""
}

// wrong returns credentials that a rule must refuse.
func (v *verifier) wrong(r *Result) (list []*login) {
	a := v.Deployment.Policy.Authentication
	for i := range a.JWT {
		if a.JWT[i].Name == r.Rule {
			return v.wrongTokens(&a.JWT[i])
		}
	}
	switch {
	case a.Basic != nil && a.Basic.Name == r.Rule:
		x := http.Request{Header: http.Header{}}
		x.SetBasicAuth(nobody, rand.Text())
		return []*login{{authorization: x.Header.Get("Authorization"), how: "with a wrong password"}}
	case a.MTLS != nil && a.MTLS.Name == r.Rule:
		if !v.people.clients {
			r.Why = "a certificate without the name that is asked for only the policy's own authority can issue"
			return nil
		}
		l := &login{how: "with a certificate that has no " + a.MTLS.Principal}
		name := nobody
		if a.MTLS.Principal == mtls.Subject.String() {
			name = "no, name"
		}
		cert, err := v.Identities.Certificate(name, try.Certificate{})
		if err != nil {
			r.Why = err.Error()
			return nil
		}
		l.certificate = &cert
		return []*login{l}
	}
	// What is left is the rule for requests that no method took.
	list = append(list, &login{authorization: "Lorica-Verify " + rand.Text(), how: "with credentials of a kind that nobody takes"})
	if a.Require && (a.MTLS == nil || !v.mutual()) {
		list = append([]*login{{how: "without credentials"}}, list...)
	}
	return list
}

// wrongTokens returns tokens of an issuer that must be refused.
func (v *verifier) wrongTokens(j *api.JWT) []*login {
	claims := map[string]any{"iss": j.Issuer, "aud": j.Audiences[0], "sub": nobody, j.Principal: nobody,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	list := []*login{{authorization: "Bearer " + forged(claims), how: "with a forged token"}}
	if !slices.Contains(v.people.issuers, j) {
		return list
	}
	for _, x := range []struct {
		how   string
		token try.Token
		alter func(string) string
	}{
		{"with a token whose claims were altered", try.Token{}, altered},
		{"with a token that has ended", try.Token{For: -24 * time.Hour}, nil},
		{"with a token for somebody else", try.Token{Audience: nobody}, nil},
	} {
		x.token.Issuer = j.Name
		token, err := v.Identities.Token(nobody, x.token)
		if err != nil {
			continue
		}
		if x.alter != nil {
			token = x.alter(token)
		}
		list = append(list, &login{authorization: "Bearer " + token, how: x.how})
	}
	return list
}

// forged signs claims with a key that nobody knows.
func forged(claims map[string]any) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "a.b.c"
	}
	head, _ := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": nobody})
	body, _ := json.Marshal(claims)
	encode := base64.RawURLEncoding.EncodeToString
	text := encode(head) + "." + encode(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "a.b.c"
	}
	var raw [64]byte
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return text + "." + encode(raw[:])
}

// altered makes another user's token of one, under the same signature.
func altered(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return token
	}
	b, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(b), nobody, nobody+"2")))
	return strings.Join(parts, ".")
}
