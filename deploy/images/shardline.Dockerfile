# shardline, from the archive of `make dist` and compiling nothing:
#   tar -xzf target/dist/out/shardline-*-linux.tar.gz -C target/dist/image --strip-components 1
#   docker build --file deploy/images/shardline.Dockerfile --tag shardline/shardline target/dist/image
FROM gcr.io/distroless/base-nossl-debian12:nonroot
COPY bin/shardline /usr/bin/shardline
COPY doc /usr/share/doc/shardline
USER 65532:65532
ENTRYPOINT ["/usr/bin/shardline"]
