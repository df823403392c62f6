// Package handler is the workload kind of an application written in Go: a
// constructor of an http.Handler.
//
// The constructor runs in the sealed image, and so does every request. There are
// no files, no environment, no network and no names to look up: a call for one of
// them ends the process. Two less obvious ways to a file: a multipart form beyond
// the memory that ParseMultipartForm is granted, so grant at least the policy's
// maxBodyBytes; and time.LoadLocation, whose place takes LoadLocationFromTZData.
// Local time is UTC. Principals arrive in request headers: see package pep.
package handler

import (
	"errors"
	"net/http"
)

// New returns the application's constructor, which fails where construct does
// and where it returns no handler.
func New(construct func() (http.Handler, error)) func() (http.Handler, error) {
	return func() (http.Handler, error) {
		if construct == nil {
			return nil, errors.New("handler: there is no constructor")
		}
		h, err := construct()
		if err == nil && h == nil {
			err = errors.New("handler: the constructor returned no handler")
		}
		return h, err
	}
}
