# A static binary in an empty image: no shell, no libc, no package to patch; beside it the public certificate
# authorities, for a bucket on the internet. Runs as any user, with a read-only root; everything it writes lies below
# /data. `tests/infra/image.sh` checks these promises without Docker.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# With --target the flag holds for the binary alone, not for build scripts and macros.
RUN TARGET="$(uname -m)-unknown-linux-gnu" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin hubgate --target "$TARGET" \
    && cp "target/$TARGET/release/hubgate" /hubgate \
    && mkdir /data

FROM scratch
COPY --from=build /hubgate /hubgate
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /data /data
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
