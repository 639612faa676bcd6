# leader-agent, from the archive of `make dist` and compiling nothing:
#   tar -xzf target/dist/out/shardline-*-linux.tar.gz -C target/dist/image --strip-components 1
#   docker build --file deploy/images/leader-agent.Dockerfile --tag shardline/leader-agent target/dist/image
FROM gcr.io/distroless/base-nossl-debian12:nonroot
COPY bin/leader-agent /usr/bin/leader-agent
COPY doc /usr/share/doc/shardline
EXPOSE 9601
USER 65532:65532
ENTRYPOINT ["/usr/bin/leader-agent"]
