// Package redteam launches malicious images with the real tender, through the
// real stage, and shows how each of them ends. Attacker is the image.
package redteam
