// A forward proxy with CONNECT from Go's most used proxy library, as its users would start it:
// nothing logged, connections kept on both sides.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/elazarl/goproxy"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	headTimeout := flag.Duration("head-timeout", time.Minute, "time a request head may take")
	flag.Parse()

	proxy := goproxy.NewProxyHttpServer()
	// The default keeps two idle connections for each origin server.
	proxy.Tr.MaxIdleConns = 0
	proxy.Tr.MaxIdleConnsPerHost = 10000
	proxy.Tr.IdleConnTimeout = 10 * time.Minute

	server := http.Server{
		Addr:              *listen,
		Handler:           proxy,
		ReadHeaderTimeout: *headTimeout,
		IdleTimeout:       10 * time.Minute,
	}
	log.Fatal(server.ListenAndServe())
}
