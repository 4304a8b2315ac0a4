// net/http with its defaults: client URL (PATH BODY)...
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for i := 2; i < len(os.Args); i += 2 {
		answer, err := http.Post(os.Args[1]+os.Args[i], "application/json", strings.NewReader(os.Args[i+1]))
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			panic(err)
		}
		answer.Body.Close()
		fmt.Printf("%s\n%d\n", body, answer.StatusCode)
	}
}
