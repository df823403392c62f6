// Package link tries the network between an image and its tender with both ends of it:
// package netstack/direct, and packages tender/usernet and tender/forward.
package link
