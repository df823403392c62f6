package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/argon2"
	"golang.org/x/term"
)

// Parameters of argon2id: the second of the recommendations of the OWASP
// Password Storage Cheat Sheet, for machines with little memory.
const (
	argonTime    = 2
	argonMemory  = 19456 // KiB
	argonThreads = 1
	saltBytes    = 16
	hashBytes    = 32
)

func (c *cli) passwdCommand() *cobra.Command {
	var groups []string
	cmd := &cobra.Command{
		Use:     "passwd USER",
		GroupID: "write",
		Short:   "Make a line of a user list for HTTP Basic",
		Long: `Reads a password from the terminal (or from standard input) and writes a line of a
user list: the user, its groups, and an argon2id verifier. The password itself is
kept nowhere.`,
		Example: `  lorica passwd staff-3 --groups staff >> users.txt
  lorica passwd teller-7 --groups tellers,night < password-file >> users.txt`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			name := regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)
			for _, s := range append([]string{list[0]}, groups...) {
				if !name.MatchString(s) {
					return usageError{fmt.Errorf("%q: names are 1 to 64 of A-Z a-z 0-9 . _ @ -", s)}
				}
			}
			password, err := c.readPassword()
			if err != nil {
				return err
			}
			line, err := userLine(list[0], groups, password)
			if err != nil {
				return err
			}
			return c.print(map[string]string{"line": line}, func(w io.Writer) { fmt.Fprintln(w, line) })
		},
	}
	cmd.Flags().StringSliceVar(&groups, "groups", nil, "groups of the user, separated by commas")
	return cmd
}

func (c *cli) readPassword() (string, error) {
	var password string
	if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(c.err, "Password: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(c.err)
		if err != nil {
			return "", err
		}
		password = string(b)
	} else {
		line, err := bufio.NewReader(io.LimitReader(c.in, 4096)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", err
		}
		password = strings.TrimRight(line, "\r\n")
	}
	if password == "" {
		return "", errors.New("the password is empty")
	}
	return password, nil
}

// userLine is the form that abi/authn reads: name:groups:PHC string.
func userLine(user string, groups []string, password string) (string, error) {
	salt := make([]byte, saltBytes)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	hash := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, hashBytes)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("%s:%s:$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", user, strings.Join(groups, ","),
		argon2.Version, argonMemory, argonTime, argonThreads, b64(salt), b64(hash)), nil
}
