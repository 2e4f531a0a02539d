# A static binary in an empty image: no shell, no libc, no package to patch. Runs as any user, with a
# read-only root; everything it writes lies below /data (directory store, spool).
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev gcc make perl
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin hubgate

FROM scratch
COPY --from=build /src/target/release/hubgate /hubgate
COPY policy /etc/hubgate/policy
ENV HUBGATE_SERVER__LISTEN=0.0.0.0:8080 \
    HUBGATE_STORE__LOCAL__PATH=/data/store \
    HUBGATE_SPOOL__DIR=/data/spool \
    HUBGATE_POLICY__DIR=/etc/hubgate/policy
VOLUME /data
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s CMD ["/hubgate", "healthcheck"]
ENTRYPOINT ["/hubgate"]
CMD ["serve"]
