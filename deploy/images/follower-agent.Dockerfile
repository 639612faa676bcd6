# follower-agent, from the archive of `make dist` and compiling nothing:
#   tar -xzf target/dist/out/shardline-*-linux.tar.gz -C target/dist/image --strip-components 1
#   docker build --file deploy/images/follower-agent.Dockerfile --tag shardline/follower-agent target/dist/image
FROM gcr.io/distroless/base-nossl-debian12:nonroot
COPY bin/follower-agent /usr/bin/follower-agent
COPY doc /usr/share/doc/shardline
EXPOSE 9200 9602
USER 65532:65532
ENTRYPOINT ["/usr/bin/follower-agent"]
