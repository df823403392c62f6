package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"

	"lorica.dev/lorica/abi/jwt"
)

// verifies checks the signature with the one key that can have made it (RFC 7518,
// RFC 8037). What is not of the form of the key's algorithm does not verify.
func (c *candidate) verifies() bool {
	digest := sha256.Sum256(c.signed)
	switch public := c.key.Public.(type) {
	case *ecdsa.PublicKey:
		if c.key.Algorithm != jwt.ES256 || len(c.signature) != 64 {
			return false
		}
		r, s := new(big.Int).SetBytes(c.signature[:32]), new(big.Int).SetBytes(c.signature[32:])
		return ecdsa.Verify(public, digest[:], r, s)
	case ed25519.PublicKey:
		return c.key.Algorithm == jwt.EdDSA && len(public) == ed25519.PublicKeySize && ed25519.Verify(public, c.signed, c.signature)
	case *rsa.PublicKey:
		return c.key.Algorithm == jwt.RS256 && rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], c.signature) == nil
	}
	return false
}
