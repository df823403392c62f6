package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"time"
)

// A Token is what a development token says, beside its times.
type Token struct {
	Issuer   string
	Audience string
	Subject  string
	Groups   []string       // as the claim "groups"; nil: none
	Claims   map[string]any // more claims, by name
	Life     time.Duration  // from now; negative: it has ended
}

// JWKS returns the public key that development tokens are verified with, as a
// JWK set (RFC 7517).
func (d *Development) JWKS() ([]byte, error) {
	key, err := d.tokenKey()
	if err != nil {
		return nil, err
	}
	jwk, err := newJWK(key)
	if err != nil {
		return nil, err
	}
	jwk.KID = jwk.thumbprint()
	return json.Marshal(map[string][]jwkey{"keys": {jwk}})
}

// Sign returns the token as a JWT signed with ES256 (RFC 7519, RFC 7518).
func (d *Development) Sign(t Token, now time.Time) (string, error) {
	key, err := d.tokenKey()
	if err != nil {
		return "", err
	}
	jwk, err := newJWK(key)
	if err != nil {
		return "", err
	}
	claims := map[string]any{}
	maps.Copy(claims, t.Claims)
	claims["iss"], claims["sub"] = t.Issuer, t.Subject
	if t.Audience != "" {
		claims["aud"] = t.Audience
	}
	if t.Groups != nil {
		claims["groups"] = t.Groups
	}
	claims["iat"], claims["exp"] = now.Unix(), now.Add(t.Life).Unix()
	head, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": jwk.thumbprint()})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	text := encode(head) + "." + encode(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", err
	}
	var raw [64]byte // fixed size, as RFC 7518, section 3.4 wants it
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return text + "." + encode(raw[:]), nil
}

func (d *Development) tokenKey() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(d.dir, "token-signing.pem")
	b, err := kept(path, nil, func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return encodeKey(key)
	})
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is not a P-256 key", path)
	}
	return private, nil
}

// A jwkey is a public key of the curve P-256 as a JWK (RFC 7518, section 6.2).
type jwkey struct {
	CRV string `json:"crv"`
	KTY string `json:"kty"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Alg string `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
	KID string `json:"kid,omitempty"`
}

func newJWK(key *ecdsa.PrivateKey) (jwkey, error) {
	point, err := key.PublicKey.Bytes() // uncompressed: 4, X, Y
	if err != nil {
		return jwkey{}, err
	}
	return jwkey{CRV: "P-256", KTY: "EC", X: encode(point[1:33]), Y: encode(point[33:]), Alg: "ES256", Use: "sig"}, nil
}

// thumbprint names the key (RFC 7638): the required members, in order.
func (k jwkey) thumbprint() string {
	text := fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.CRV, k.KTY, k.X, k.Y)
	sum := sha256.Sum256([]byte(text))
	return encode(sum[:])
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
