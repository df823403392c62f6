package main

import (
	"bufio"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/term"

	"lorica.dev/lorica/abi/basic"
)

// What the OWASP Password Storage Cheat Sheet recommends, for machines with little
// memory where there is a choice.
const (
	argonTime    = 2
	argonMemory  = 19456 // KiB
	argonThreads = 1
	bcryptCost   = 12
	iterations   = 600_000 // of PBKDF2 with SHA-256
	saltBytes    = 16
	hashBytes    = 32
)

func (c *cli) passwdCommand() *cobra.Command {
	var groups []string
	scheme := basic.SchemeArgon2id
	cmd := &cobra.Command{
		Use:     "passwd USER",
		GroupID: "write",
		Short:   "Make a line of a user list for HTTP Basic",
		Long: `Reads a password from the terminal (or from standard input) and writes a line of a
user list: the user, its groups, and a verifier. The password itself is kept
nowhere.

An image can verify what its user list holds when it is built: a list of one scheme
needs one module. argon2id costs who guesses the most; pbkdf2 (with SHA-256) is for
those who are bound to FIPS 140; bcrypt is for lists that other programs read, too.`,
		Example: `  lorica passwd staff-3 --groups staff >> users.txt
  lorica passwd teller-7 --groups tellers,night < password-file >> users.txt
  lorica passwd auditor-1 --scheme pbkdf2 >> users.txt`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			name := regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)
			for _, s := range append([]string{list[0]}, groups...) {
				if !name.MatchString(s) {
					return usageError{fmt.Errorf("%q: names are 1 to 64 of A-Z a-z 0-9 . _ @ -", s)}
				}
			}
			if !slices.Contains(basic.Schemes(), scheme) {
				return usageError{fmt.Errorf("--scheme %q: write %s", scheme, strings.Join(basic.Schemes(), ", "))}
			}
			password, err := c.readPassword()
			if err != nil {
				return err
			}
			made, err := verifierOf(scheme, password)
			if err != nil {
				return err
			}
			line := list[0] + ":" + strings.Join(groups, ",") + ":" + made
			return c.print(map[string]string{"line": line}, func(w io.Writer) { fmt.Fprintln(w, line) })
		},
	}
	cmd.Flags().StringSliceVar(&groups, "groups", nil, "groups of the user, separated by commas")
	cmd.Flags().StringVar(&scheme, "scheme", scheme, strings.Join(basic.Schemes(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("scheme", cobra.FixedCompletions(basic.Schemes(), cobra.ShellCompDirectiveNoFileComp))
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

// verifierOf returns a verifier in one of the forms that abi/basic reads.
func verifierOf(scheme, password string) (string, error) {
	if scheme == basic.SchemeBcrypt {
		if len(password) > basic.MaxBcryptPassword {
			return "", fmt.Errorf("bcrypt sees %d bytes of a password and this one has %d: choose another, or another --scheme", basic.MaxBcryptPassword, len(password))
		}
		b, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
		return strings.Replace(string(b), "$2a$", "$2b$", 1), err // the name that says that it has no old mistake
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt) // cannot fail: crypto/rand ends the process instead
	b64 := base64.RawStdEncoding.EncodeToString
	if scheme == basic.SchemePBKDF2 {
		hash, err := pbkdf2.Key(sha256.New, password, salt, iterations, hashBytes)
		return fmt.Sprintf("$pbkdf2-sha256$i=%d$%s$%s", iterations, b64(salt), b64(hash)), err
	}
	hash := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, hashBytes)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b64(salt), b64(hash)), nil
}
